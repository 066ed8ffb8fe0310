/* flip_bit FILE SEED [FROM [TO]]: flips one bit, drawn by the seed, of the file or of its bytes
   FROM <= i < TO, and prints which. For tests. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 5)
        return 2;
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    off_t from = argc > 3 ? (off_t)strtoll(argv[3], NULL, 10) : 0;
    off_t to = argc > 4 ? (off_t)strtoll(argv[4], NULL, 10) : size;
    if (from < 0 || to <= from || to > size)
        return 1;
    uint64_t x = strtoull(argv[2], NULL, 10) + 0x9e3779b97f4a7c15U; /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    x ^= x >> 31;
    off_t at = from + (off_t)((x >> 3) % (uint64_t)(to - from));
    unsigned char byte;
    if (pread(fd, &byte, 1, at) != 1)
        return 1;
    byte ^= (unsigned char)(1U << (x & 7));
    if (pwrite(fd, &byte, 1, at) != 1 || close(fd) < 0)
        return 1;
    printf("byte %jd, bit %u\n", (intmax_t)at, (unsigned)(x & 7));
    return 0;
}
