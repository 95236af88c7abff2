//! placeholder
/// x
pub struct PagePool;
/// x
#[derive(Clone, Debug)]
pub struct Page;
/// x
pub struct LargePage;
