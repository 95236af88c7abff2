// The vDSO: a complete ELF shared object, laid out by hand so that no linker step is needed. Everything is relative to `vdso_start`;
// the page in front of it holds the clock's parameters (see ClockPage in mod.rs, whose offsets are repeated here).
// Sources: ELF gABI; vdso(7); the version LINUX_2.6 and the symbol names are the ABI that C libraries look up.

    .pushsection .rodata.vdso, "a", @progbits
    .balign 4096
    .globl vdso_start
    .globl vdso_end
vdso_start:
    // ELF header
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0
    .quad 0
    .short 3, 62                            // ET_DYN, EM_X86_64
    .long 1
    .quad vdso_clock_gettime - vdso_start   // entry: not used
    .quad vdso_headers - vdso_start
    .quad 0
    .long 0
    .short 64, 56, 2, 64, 0, 0
vdso_headers:
    .long 1, 5                              // PT_LOAD, read and execute
    .quad 0, 0, 0
    .quad vdso_end - vdso_start, vdso_end - vdso_start
    .quad 4096
    .long 2, 4                              // PT_DYNAMIC
    .quad vdso_dynamic - vdso_start, vdso_dynamic - vdso_start, vdso_dynamic - vdso_start
    .quad vdso_dynamic_end - vdso_dynamic, vdso_dynamic_end - vdso_dynamic
    .quad 8

    .balign 8
vdso_dynamic:
    .quad 14, vdso_soname - vdso_strings    // DT_SONAME
    .quad 4, vdso_hash - vdso_start         // DT_HASH
    .quad 5, vdso_strings - vdso_start      // DT_STRTAB
    .quad 6, vdso_symbols - vdso_start      // DT_SYMTAB
    .quad 10, vdso_strings_end - vdso_strings
    .quad 11, 24                            // DT_SYMENT
    .quad 0x6ffffff0, vdso_versions - vdso_start
    .quad 0x6ffffffc, vdso_verdef - vdso_start
    .quad 0x6ffffffd, 2
    .quad 0, 0
vdso_dynamic_end:

    // One bucket: every symbol is on its chain.
vdso_hash:
    .long 1, 6
    .long 1
    .long 0, 2, 3, 4, 5, 0

    .macro vdso_symbol name, function, end
    .long \name - vdso_strings
    .byte 0x12, 0                           // global function, default visibility
    .short 1                                // defined: any section but the undefined one
    .quad \function - vdso_start
    .quad \end - \function
    .endm
    .balign 8
vdso_symbols:
    .quad 0, 0, 0
    vdso_symbol vdso_name_clock_gettime, vdso_clock_gettime, vdso_clock_gettime_end
    vdso_symbol vdso_name_gettimeofday, vdso_gettimeofday, vdso_gettimeofday_end
    vdso_symbol vdso_name_time, vdso_time, vdso_time_end
    vdso_symbol vdso_name_getcpu, vdso_getcpu, vdso_getcpu_end
    vdso_symbol vdso_name_clock_getres, vdso_clock_getres, vdso_clock_getres_end
vdso_versions:
    .short 0, 2, 2, 2, 2, 2
    .balign 8
vdso_verdef:
    .short 1, 1, 1, 1                       // version, VER_FLG_BASE, index, one name
    .long 0x0deebfa1                        // elf_hash("linux-vdso.so.1")
    .long 20, 28
    .long vdso_soname - vdso_strings, 0
    .short 1, 0, 2, 1
    .long 0x03ae75f6                        // elf_hash("LINUX_2.6")
    .long 20, 0
    .long vdso_version - vdso_strings, 0

vdso_strings:
    .byte 0
vdso_name_clock_gettime: .asciz "__vdso_clock_gettime"
vdso_name_gettimeofday: .asciz "__vdso_gettimeofday"
vdso_name_time: .asciz "__vdso_time"
vdso_name_getcpu: .asciz "__vdso_getcpu"
vdso_name_clock_getres: .asciz "__vdso_clock_getres"
vdso_soname: .asciz "linux-vdso.so.1"
vdso_version: .asciz "LINUX_2.6"
vdso_strings_end:

    .set vdso_clock_page, vdso_start - 4096

    // Returns in rax the monotonic time in ns. Clobbers rdx and rcx.
    .balign 16
vdso_monotonic:
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, [rip + vdso_clock_page + 0]    // base_tsc
    jae 1f
    xor eax, eax                            // never before the base
1:  mov ecx, [rip + vdso_clock_page + 24]   // shift, below 64
    mul qword ptr [rip + vdso_clock_page + 16]
    shrd rax, rdx, cl
    add rax, [rip + vdso_clock_page + 8]    // base_ns
    ret

    // int clock_gettime(clockid_t edi, struct timespec *rsi)
    .balign 16
vdso_clock_gettime:
    cmp edi, 7
    ja 9f
    mov ecx, 0xf3                           // 0, 1, 4, 5, 6, 7: not the CPU-time clocks
    bt ecx, edi
    jnc 9f
    call vdso_monotonic
    mov ecx, 0x21                           // REALTIME and REALTIME_COARSE
    bt ecx, edi
    jnc 1f
    add rax, [rip + vdso_clock_page + 32]   // realtime offset
1:  xor edx, edx
    mov ecx, 1000000000
    div rcx
    mov [rsi], rax
    mov [rsi + 8], rdx
    xor eax, eax
    ret
9:  mov eax, 228
    syscall
    ret
vdso_clock_gettime_end:

    // int gettimeofday(struct timeval *rdi, struct timezone *rsi)
    .balign 16
vdso_gettimeofday:
    test rdi, rdi
    jz 1f
    call vdso_monotonic
    add rax, [rip + vdso_clock_page + 32]
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    mov [rdi], rax
    mov eax, edx
    xor edx, edx
    mov ecx, 1000
    div ecx
    mov [rdi + 8], rax
1:  test rsi, rsi
    jz 2f
    mov qword ptr [rsi], 0                  // UTC
2:  xor eax, eax
    ret
vdso_gettimeofday_end:

    // time_t time(time_t *rdi)
    .balign 16
vdso_time:
    call vdso_monotonic
    add rax, [rip + vdso_clock_page + 32]
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    test rdi, rdi
    jz 1f
    mov [rdi], rax
1:  ret
vdso_time_end:

    // int getcpu(unsigned *rdi, unsigned *rsi, void *): CPU and node from TSC_AUX where there is RDTSCP, as the page says.
    .balign 16
vdso_getcpu:
    cmp dword ptr [rip + vdso_clock_page + 28], 0
    je 9f
    rdtscp
    mov eax, ecx
    and ecx, 0xfff
    shr eax, 12
    test rdi, rdi
    jz 1f
    mov [rdi], ecx
1:  test rsi, rsi
    jz 2f
    mov [rsi], eax
2:  xor eax, eax
    ret
9:  mov eax, 309
    syscall
    ret
vdso_getcpu_end:

    // int clock_getres(clockid_t edi, struct timespec *rsi): 1 ns
    .balign 16
vdso_clock_getres:
    cmp edi, 7
    ja 9f
    mov ecx, 0xf3
    bt ecx, edi
    jnc 9f
    test rsi, rsi
    jz 1f
    mov qword ptr [rsi], 0
    mov qword ptr [rsi + 8], 1
1:  xor eax, eax
    ret
9:  mov eax, 229
    syscall
    ret
vdso_clock_getres_end:
    .balign 4096
vdso_end:
    .popsection
