/* getrandom without chance, so that hash tables lie the same way and a run executes the same instructions every time. */
#include <string.h>
#include <sys/types.h>

ssize_t getrandom(void *bytes, size_t count, unsigned flags)
{
    (void)flags;
    memset(bytes, 42, count);
    return (ssize_t)count;
}
