//! What the host does to the guest that defends itself against nothing ([`crate::scenario::Scenario::Naive`]).
//!
//! Each is a script of the emulator's, `malice/NAME.toml`, and a function of the guest's (`naive/`) that says what such a guest then believes.

named! {
    /// An attack.
    Attack {
        /// The memory behind a private page is gone, and the host answers the read itself.
        PageUnmapped = "page-unmapped",
        /// A shared page shows another's memory.
        SharedPageRemapped = "shared-page-remapped",
        /// A private page shows another's memory: the reverse map table does not let it.
        PrivatePageRemapped = "private-page-remapped",
        /// A private page has fresh memory.
        PageReplaced = "page-replaced",
        /// Two private pages have each other's memory.
        PagesSwapped = "pages-swapped",
        /// A private page is as it was.
        PrivatePageReplayed = "private-page-replayed",
        /// A shared page is as it was.
        SharedPageReplayed = "shared-page-replayed",
        /// A page is validated before the guest does it, and holds what the host wants.
        ValidatedBehind = "validated-behind",
        /// The ciphertext of a private page is another.
        CiphertextChanged = "ciphertext-changed",
        /// A shared number changes between check and use.
        CheckAndUse = "check-and-use",
        /// The GHCB changes between check and use.
        GhcbCheckAndUse = "ghcb-check-and-use",
        /// Every field of an answer in the GHCB is a lie.
        EveryFieldLies = "every-field-lies",
        /// An answer in the GHCB MSR is a lie.
        MsrAnswerLies = "msr-answer-lies",
        /// A request by the GHCB MSR is refused.
        MsrRefused = "msr-refused",
        /// A request is refused with an exception that cannot be.
        ForgedException = "forged-exception",
        /// A write to a device is said to be done, and is not.
        WriteSkipped = "write-skipped",
        /// A read of a device is done twice.
        ReadRepeated = "read-repeated",
        /// A write to a device is said to be done, and is done later.
        WritePostponed = "write-postponed",
        /// An answer is late.
        AnsweredLate = "answered-late",
        /// An interrupt while interrupts are off: a system call that nobody made.
        Int80 = "int-80",
        /// An NMI that nothing caused.
        Nmi = "nmi",
        /// A page fault where none was.
        PageFault = "page-fault",
        /// A software interrupt that no instruction made.
        SoftwareInterrupt = "software-interrupt",
        /// #VC for an instruction that is another.
        ForgedVc = "forged-vc",
        /// #HV in a guest without restricted injection.
        Hv = "hv",
        /// The TSC goes back.
        TimeGoesBack = "time-goes-back",
        /// What fw_cfg reads is something else.
        FwCfgData = "fw-cfg-data",
        /// The memory map names less than there is.
        MemoryHidden = "memory-hidden",
        /// There are said to be a million CPUs.
        CpusInvented = "cpus-invented",
        /// The CPUID page lacks what the CPU has.
        FeaturesHidden = "features-hidden",
        /// The CPUID page has what the CPU lacks: the PSP does not let it.
        FeaturesInvented = "features-invented",
        /// A byte of the PSP's answer is another: AES-GCM does not let it.
        ReplyCorrupted = "reply-corrupted",
        /// The PSP's answer to an earlier request.
        ReplyReplayed = "reply-replayed",
        /// A byte of the message to the PSP is another, and the answer is an old one.
        QuestionCorrupted = "question-corrupted",
        /// The message to the PSP has another sequence number.
        WrongSequence = "wrong-sequence",
        /// The host does not hand a message to the PSP.
        MessageRefused = "message-refused",
    }
}
