//! placeholder
/// x
pub struct PagePool;
/// x
#[derive(Clone, Debug)]
pub struct Page;
/// x
pub struct LargePage;
#[allow(missing_docs)]
impl PagePool {
    pub fn alloc_zeroed(&self) -> Result<Page, crate::platform::OutOfMemory> {
        Ok(Page)
    }
}
#[allow(missing_docs)]
impl Page {
    pub fn fill(&self, _o: usize, _l: usize, _b: u8) {}
    pub fn is_unique(&self) -> bool {
        true
    }
}
