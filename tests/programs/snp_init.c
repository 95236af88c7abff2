// The /init of a Linux guest on SEV-SNP: tries what an SNP guest needs and says how it went, a line each, then switches the
// machine off. What it says is checked by tests/emulator.rs. Lines begin with "snp: "; one that begins with "snp: error" fails the test.
//
// SNP_SECONDS in the environment (Linux passes on what it does not know on its command line): how long to watch the timers.
// Source of the requests: Linux's include/uapi/linux/sev-guest.h, Documentation/virt/coco/sev-guest.rst.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { CPUS_MAX = 8, MIB = 1 << 20, CERTIFICATES_MAX = 0x4000 }; // The driver takes no more.

static void error(const char *what) { printf("snp: error: %s: %s\n", what, strerror(errno)); }

static void hex(const char *name, const unsigned char *bytes, size_t size)
{
    printf("snp: %s ", name);
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
    printf("\n");
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void load_modules(void)
{
    char name[128], path[192];
    FILE *order = fopen("/modules/order", "r");
    if (!order)
        return error("/modules/order");
    while (fscanf(order, "%127s", name) == 1) {
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
            error(name);
        else
            printf("snp: module %s\n", name);
        close(fd);
    }
    fclose(order);
}

// Local timer interrupts of each CPU so far; the number of CPUs.
static int timers(unsigned long counts[CPUS_MAX])
{
    char line[512];
    int cpus = 0;
    FILE *file = fopen("/proc/interrupts", "r");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        char *at = strstr(line, "LOC:");
        if (!at)
            continue;
        at += 4;
        for (char *end; cpus < CPUS_MAX; at = end, cpus++) {
            counts[cpus] = strtoul(at, &end, 10);
            if (end == at)
                break;
        }
    }
    fclose(file);
    return cpus;
}

// A process on each CPU sets timers; each CPU's interrupts are counted meanwhile.
static void watch_timers(double seconds)
{
    unsigned long before[CPUS_MAX], after[CPUS_MAX];
    pid_t children[CPUS_MAX];
    int cpus = timers(before);
    printf("snp: cpus %d\n", cpus);
    for (int cpu = 0; cpu < cpus; cpu++) {
        children[cpu] = fork();
        if (children[cpu] == 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpu, &set);
            if (sched_setaffinity(0, sizeof set, &set) != 0)
                _exit(1);
            for (;;)
                usleep(10000);
        }
        if (children[cpu] < 0)
            error("fork");
    }
    double start = now();
    while (now() - start < seconds)
        usleep(100000);
    double passed = now() - start;
    timers(after);
    for (int cpu = 0; cpu < cpus; cpu++) {
        if (children[cpu] > 0)
            kill(children[cpu], SIGKILL);
        printf("snp: timer %d %lu\n", cpu, after[cpu] - before[cpu]);
    }
    printf("snp: seconds %.3f\n", passed);
}

// Reads the first MiB past the page cache, writes it inverted to the third, and reads that back.
static void use_disk(void)
{
    unsigned char *read_into = mmap(0, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *written = mmap(0, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = -1;
    for (double start = now(); fd < 0 && now() - start < 20; usleep(20000))
        fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        return error("/dev/vda");
    if (pread(fd, read_into, MIB, 0) != MIB)
        return error("reading the disk");
    uint64_t hash = 0xcbf29ce484222325;
    for (int i = 0; i < MIB; i++)
        hash = (hash ^ read_into[i]) * 0x100000001b3;
    printf("snp: disk-read %016llx\n", (unsigned long long)hash);
    for (int i = 0; i < MIB; i++)
        written[i] = ~read_into[i];
    if (pwrite(fd, written, MIB, 2 * MIB) != MIB || fsync(fd) != 0)
        return error("writing the disk");
    memset(read_into, 0, MIB);
    if (pread(fd, read_into, MIB, 2 * MIB) != MIB)
        return error("reading the disk again");
    if (memcmp(read_into, written, MIB) != 0) {
        errno = EIO;
        return error("the disk gives back something else");
    }
    close(fd);
    printf("snp: disk-written\n");
}

struct guest_request {
    uint8_t message_version;
    uint64_t request;
    uint64_t response;
    uint64_t error;
};

struct report_request {
    uint8_t user_data[64];
    uint32_t vmpl;
    uint8_t reserved[28];
};

struct extended_report_request {
    struct report_request data;
    uint64_t certificates;
    uint32_t certificates_size;
};

struct report_response {
    // Status, size, reserved up to 32 bytes; then the report.
    uint8_t data[4000];
};

struct key_request {
    uint32_t root_key;
    uint32_t reserved;
    uint64_t fields;
    uint32_t vmpl;
    uint32_t svn;
    uint64_t tcb;
};

struct key_response {
    // Status, reserved up to 32 bytes; then the key.
    uint8_t data[64];
};

#define SNP_GET_REPORT _IOWR('S', 0, struct guest_request)
#define SNP_GET_DERIVED_KEY _IOWR('S', 1, struct guest_request)
#define SNP_GET_EXT_REPORT _IOWR('S', 2, struct guest_request)

static int ask(int fd, unsigned long what, const char *name, void *request, void *response)
{
    struct guest_request message = {1, (uintptr_t)request, (uintptr_t)response, 0};
    if (ioctl(fd, what, &message) == 0)
        return 0;
    printf("snp: error: %s: %s, firmware %#x, host %#x\n", name, strerror(errno), (unsigned)message.error,
           (unsigned)(message.error >> 32));
    return -1;
}

static void print_report(const char *name, const struct report_response *response)
{
    uint32_t status, size;
    memcpy(&status, response->data, 4);
    memcpy(&size, response->data + 4, 4);
    if (status != 0 || size > sizeof response->data - 32)
        printf("snp: error: %s: status %#x, %u bytes\n", name, status, size);
    else
        hex(name, response->data + 32, size);
}

static void attest(void)
{
    static struct report_response report, extended;
    static struct key_response key, other;
    int fd = -1;
    for (double start = now(); fd < 0 && now() - start < 5; usleep(20000))
        fd = open("/dev/sev-guest", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return error("/dev/sev-guest");
    struct report_request wanted = {{0}, 0, {0}};
    for (int i = 0; i < 64; i++)
        wanted.user_data[i] = i + 1;
    if (ask(fd, SNP_GET_REPORT, "report", &wanted, &report) == 0)
        print_report("report", &report);

    unsigned char *certificates =
        mmap(0, CERTIFICATES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    wanted.user_data[0] = 0xee;
    struct extended_report_request more = {wanted, (uintptr_t)certificates, CERTIFICATES_MAX};
    if (ask(fd, SNP_GET_EXT_REPORT, "extended-report", &more, &extended) == 0) {
        print_report("extended-report", &extended);
        int end = CERTIFICATES_MAX;
        while (end > 0 && certificates[end - 1] == 0)
            end--;
        hex("certificates", certificates, end);
    }

    // With no room at all: the host must say how much it takes. The sequence of messages goes on, as the next request shows.
    more.certificates_size = 0;
    struct guest_request message = {1, (uintptr_t)&more, (uintptr_t)&extended, 0};
    if (ioctl(fd, SNP_GET_EXT_REPORT, &message) == 0) {
        errno = 0;
        error("a request without room for certificates was not refused");
    }
    printf("snp: certificates-need %u, host %u\n", more.certificates_size, (unsigned)(message.error >> 32));

    // From the VCEK; mixed with the measurement (bit 3) and without.
    struct key_request mixed = {0, 0, 1 << 3, 0, 0, 0}, plain = {0, 0, 0, 0, 0, 0};
    if (ask(fd, SNP_GET_DERIVED_KEY, "key", &mixed, &key) == 0)
        hex("key", key.data + 32, 32);
    if (ask(fd, SNP_GET_DERIVED_KEY, "plain-key", &plain, &other) == 0)
        hex("plain-key", other.data + 32, 32);
    close(fd);
}

int main(void)
{
    mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, 0);
    mount("sysfs", "/sys", "sysfs", 0, 0);
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    // The kernel's messages would end up in the middle of ours.
    int quiet = open("/proc/sys/kernel/printk", O_WRONLY);
    if (quiet < 0 || write(quiet, "1", 1) != 1)
        error("printk");
    close(quiet);
    printf("\nsnp: init\n");
    load_modules();
    const char *seconds = getenv("SNP_SECONDS");
    watch_timers(seconds ? atof(seconds) : 2);
    use_disk();
    struct stat there;
    if (stat("/sys/module/sev_guest", &there) == 0)
        attest();
    printf("snp: done\n");
    fflush(stdout);
    tcdrain(1);
    sync();
    reboot(RB_POWER_OFF);
}
