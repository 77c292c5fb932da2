/* claim.h -- who owns a run directory: a claim file made with O_EXCL, held by flock while its owner lives.
 * The kernel drops the lock when the owner dies, however it dies, so a free claim of this machine is a dead
 * owner's. */
#ifndef SUMI_IO_CLAIM_H
#define SUMI_IO_CLAIM_H

#include "../base.h"

typedef struct su_owner { int pid; char host[256], boot[40], job[32], since[32]; } su_owner;
typedef enum su_held { SU_FREE, SU_HELD, SU_UNKNOWN } su_held;

void su_owner_self(su_owner *me);                         /* job: Slurm's, "" outside of it; since: now, UTC */
bool su_pid_alive(int pid);
/* Who the claim file names, and whether somebody holds it now. SU_UNKNOWN: no file, or no locks on this
 * file system and the owner is not of this machine. Never fails: unknown parts are "" and 0. */
su_held su_claim_peek(const char *path, su_owner *owner);

/* Takes the claim; returns a descriptor to keep open, -1 with a message naming the owner (code SU_ESCRIPT)
 * if another process has it. `beat`: seconds since the owner's last heartbeat, < 0 if it says it has
 * stopped; it decides only when the lock is free but the owner was on another machine, where a lock may not
 * reach. */
int su_claim_take(const char *path, double beat);
void su_claim_drop(int fd);                               /* the file stays: it tells who was here last */

#endif
