/* Preloaded into linux.uml, for processors with AMX.
 *
 * User-mode Linux 6.1 saves its processes' registers in 2,696 bytes, and hands the kernel as many
 * when it sets them again (PTRACE_SETREGSET, NT_XSTATE). The kernel takes only the whole area,
 * which is 11 KB with AMX: UML panics in put_fp_registers as soon as init starts. So get the whole
 * area, put UML's bytes over its beginning, and set that.
 *
 * Reading needs nothing: PTRACE_GETREGSET cuts what does not fit. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
/* sys/ptrace.h and linux/ptrace.h cannot both be had, and ptrace is defined here. */
#define PEEKTEXT 1
#define PEEKUSER 3
#define GETREGSET 0x4204
#define SETREGSET 0x4205

static long set_registers(long pid, const struct iovec *saved)
{
    static __thread char area[32768] __attribute__((aligned(64)));
    struct iovec whole = {area, sizeof area};

    if (syscall(SYS_ptrace, GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    memcpy(area, saved->iov_base, saved->iov_len < whole.iov_len ? saved->iov_len : whole.iov_len);
    return syscall(SYS_ptrace, SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(int request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, int);
    long address = va_arg(arguments, long);
    long data = va_arg(arguments, long);
    va_end(arguments);

    if (request == SETREGSET && address == NT_X86_XSTATE)
        return set_registers(pid, (const struct iovec *)data);
    if (request >= PEEKTEXT && request <= PEEKUSER) { /* glibc returns what was read */
        long word;
        if (syscall(SYS_ptrace, (long)request, pid, address, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, (long)request, pid, address, data);
}
