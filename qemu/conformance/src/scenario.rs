//! What a boot of the guest is for. Most checks are made in one boot ([`Scenario::Checks`]); what ends a guest takes a boot of its own.

named! {
    /// A boot.
    Scenario {
        /// All checks, a line for each that fails, the sum, and power off.
        Checks = "checks",
        /// MSR protocol 0x100, set 0, code 0: the general request.
        TerminateGeneral = "terminate-general",
        /// MSR protocol 0x100, set 0, code 1: the protocol's version.
        TerminateProtocol = "terminate-protocol",
        /// MSR protocol 0x100, set 0, code 2: no SNP.
        TerminateNoSnp = "terminate-no-snp",
        /// MSR protocol 0x100, a set and a code that nobody has defined.
        TerminateUnknown = "terminate-unknown",
        /// The same through the GHCB page: exit 0x8000_FFFE.
        TerminatePage = "terminate-page",
        /// A request that the MSR protocol does not have.
        UnknownMsrRequest = "unknown-msr-request",
        /// VMGEXIT with a GHCB that is private.
        PrivateGhcb = "private-ghcb",
        /// VMGEXIT with a GHCB where there is no memory.
        MissingGhcb = "missing-ghcb",
        /// A private access to a page that was made shared.
        PrivateAccessToShared = "private-access-to-shared",
        /// A write without the C-bit to a private page.
        SharedWriteToPrivate = "shared-write-to-private",
        /// A private access where there is no memory.
        PrivateAccessToNothing = "private-access-to-nothing",
        /// #VC without a handler.
        NoHandler = "no-handler",
        /// HLT with interrupts off, and nothing that could wake the guest.
        Halt = "halt",
        /// Three faults in a row.
        TripleFault = "triple-fault",
        /// Reset through the chipset.
        Reset = "reset",
        /// The second CPU is created from a VMSA without EFER.SVME.
        BadVmsa = "bad-vmsa",
        /// A device is told to write into a private page.
        DeviceToPrivate = "device-to-private",
        /// What exits cost.
        Measure = "measure",
        /// A guest that defends itself against nothing, while the host does what [`crate::attack`] says.
        Naive = "naive",
    }
}
