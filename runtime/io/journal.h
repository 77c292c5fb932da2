/* journal.h -- the numbers of a run: every metric's rows in memory, and the journal that keeps them between
 * two seals. Not run.h5 itself: lua/sumi/store.lua decides what is sealed and when.
 *
 * journal.tsv has one line per number, step TAB seconds TAB metric TAB value (%.17g), and one write() per
 * step. Lines whose metric begins with '@' are notes (events, samples) that are sealed into tables of their
 * own. A line without its newline is torn and ignored, and so is a row that the sealed series already
 * reaches (its last step >= the row's). */
#ifndef SUMI_IO_JOURNAL_H
#define SUMI_IO_JOURNAL_H

#include "h5.h"

typedef struct su_row { int64_t step; double seconds, value; } su_row;

typedef struct su_series {
  char *name;
  su_row *rows;
  int64_t n, cap;
  bool higher;                         /* larger values are better */
} su_series;

typedef struct su_journal su_journal;
su_journal *su_journal_new(void);
void su_journal_free(su_journal *j);

int64_t su_journal_count(const su_journal *j);
su_series *su_journal_at(su_journal *j, int64_t i);             /* in the order they were first seen */
su_series *su_journal_find(su_journal *j, const char *name);    /* NULL, without a message, if there is none */
/* Finds or adds; NULL with a message for a name that cannot be a path in HDF5 or collides with another. */
su_series *su_journal_get(su_journal *j, const char *name);
bool su_series_add(su_series *s, su_row row);
int64_t su_journal_last(const su_journal *j);                   /* largest step in any series, -1 if empty */
int64_t su_journal_drop_after(su_journal *j, int64_t step);     /* forgets rows beyond it; returns how many */

/* ---- the journal ---- */

/* Opens for appending (made if missing); rows in it must have been replayed or be unwanted. */
bool su_journal_open(su_journal *j, const char *path);
bool su_journal_empty(su_journal *j);                        /* after a seal */
/* What a failed write may promise, e.g. "run.h5 and step 40 are intact". */
bool su_journal_intact(su_journal *j, const char *text);
/* One step: rows to memory and, in one write(), to the journal. Allocates only when an array grows. A
 * failed write leaves the journal as it was, and the rows in memory. fdatasync at most every 10 s: what a
 * power cut may eat. */
bool su_journal_begin(su_journal *j, int64_t step, double seconds);
bool su_journal_add(su_journal *j, const char *name, double value);
bool su_journal_end(su_journal *j);
/* A note, one write(): key must begin with '@'; text may hold anything. */
bool su_journal_note(su_journal *j, int64_t step, double seconds, const char *key, const char *text);

/* Replays a journal's text: rows into the series, notes to the callback (text unescaped). Returns rows
 * taken, -1 with a message on failure; *skipped counts lines that were torn, unreadable or sealed already. */
typedef bool (*su_note_fn)(void *ctx, int64_t step, double seconds, const char *key, const char *text);
int64_t su_journal_replay(su_journal *j, char *text, su_note_fn note, void *ctx, int64_t *skipped);

/* ---- sealing ---- */

typedef struct su_summary { double last, best, mean; int64_t best_step; } su_summary;
/* last value, best value (NaN never is best) and its step, mean of the last 10 % (at least one row). n must
 * be > 0. */
su_summary su_series_summary(const su_series *s);
bool su_series_seal(const su_series *s, su_h5 *h, const char *path, bool squeeze);
/* Reads a table {step, seconds, value} into an empty series. */
bool su_series_read(su_series *s, su_h5 *h, const char *path);

#endif
