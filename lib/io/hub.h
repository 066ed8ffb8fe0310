/*
 * Checkpoints where the Hugging Face hub's client left them: the directory models--ORG--NAME of its
 * cache, or ORG/NAME that is found in the cache of this user. Nothing is ever downloaded.
 */
#ifndef AQ_IO_HUB_H
#define AQ_IO_HUB_H

#include <stdbool.h>

/* The directory with the files, to be freed: of a cached repository the snapshot that refs/main
   names, or the only one. Any other path comes back as it is, and so does what is not found. */
char *hub_directory(const char *path);
/* Does it look like ORG/NAME, and nothing of that name exists here? */
bool hub_is_id(const char *path);

#endif
