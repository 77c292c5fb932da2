/* journal.c -- a run's numbers in memory and in its journal. See journal.h. */
#define _GNU_SOURCE
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNC_SECONDS 10.0

struct su_journal {
  su_series **at;
  int64_t n, cap, guess;               /* guess: series that the next number probably belongs to */
  int64_t step;
  double seconds;                      /* of the step being added */
  char head[64];                       /* "step TAB seconds TAB" */
  size_t head_bytes;
  int fd;                              /* -1: no journal */
  char *path, *intact;
  char *buf;                           /* the step's lines */
  size_t used, room;
  double synced;                       /* su_now() of the last fdatasync */
};

su_journal *su_journal_new(void) {
  su_journal *j = su_calloc(sizeof *j);
  if (j) j->fd = -1;
  return j;
}

void su_journal_free(su_journal *j) {
  if (!j) return;
  if (j->fd >= 0) close(j->fd);
  for (int64_t i = 0; i < j->n; i++) {
    su_free(j->at[i]->name);
    su_free(j->at[i]->rows);
    su_free(j->at[i]);
  }
  su_free(j->at);
  su_free(j->path);
  su_free(j->intact);
  su_free(j->buf);
  su_free(j);
}

/* ---- series ---- */

int64_t su_journal_count(const su_journal *j) { return j->n; }
su_series *su_journal_at(su_journal *j, int64_t i) { return j->at[i]; }

su_series *su_journal_find(su_journal *j, const char *name) {
  if (j->guess < j->n && strcmp(j->at[j->guess]->name, name) == 0) return j->at[j->guess++];
  for (int64_t i = 0; i < j->n; i++)
    if (strcmp(j->at[i]->name, name) == 0) return j->guess = i + 1, j->at[i];
  return NULL;
}

/* Names become paths in HDF5 and a field of a line. */
static bool check_name(const char *name) {
  for (const char *p = name;; p++) {
    size_t n = strcspn(p, "/");
    if (n == 0 || (n == 1 && *p == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
      return su_fail("metric '%s': a name looks like 'loss/G/adv', without empty parts, '.' or '..'", name);
    p += n;
    if (!*p) break;
  }
  for (const unsigned char *c = (const unsigned char *)name; *c; c++)
    if (*c < ' ') return su_fail("metric '%s': names have no tabs or line ends", name);
  return name[0] != '@' || su_fail("metric '%s': names do not begin with '@'", name);
}

/* a = "loss/G" and b = "loss/G/adv" cannot both be: one place cannot hold a table and a folder. */
static bool is_folder_of(const char *a, const char *b) {
  size_t n = strlen(a);
  return strncmp(a, b, n) == 0 && b[n] == '/';
}

su_series *su_journal_get(su_journal *j, const char *name) {
  su_series *s = su_journal_find(j, name);
  if (s) return s;
  if (!check_name(name)) return NULL;
  for (int64_t i = 0; i < j->n; i++) {
    const char *other = j->at[i]->name;
    if (!is_folder_of(name, other) && !is_folder_of(other, name)) continue;
    su_fail("metrics '%s' and '%s': one cannot be inside the other; name the first '%s/all'", name, other,
            strlen(name) < strlen(other) ? name : other);
    return NULL;
  }
  if (j->n == j->cap) {
    int64_t cap = j->cap ? 2 * j->cap : 32;
    su_series **at = su_realloc(j->at, (size_t)cap * sizeof *at);
    if (!at) return NULL;
    j->at = at;
    j->cap = cap;
  }
  s = su_calloc(sizeof *s);
  if (s && !(s->name = su_strdup(name))) su_free(s), s = NULL;
  if (s) j->at[j->n++] = s, j->guess = j->n;
  return s;
}

bool su_series_add(su_series *s, su_row row) {
  if (s->n == s->cap) {
    int64_t cap = s->cap ? 2 * s->cap : 256;
    su_row *rows = su_realloc(s->rows, (size_t)cap * sizeof *rows);
    if (!rows) return false;
    s->rows = rows;
    s->cap = cap;
  }
  s->rows[s->n++] = row;
  return true;
}

int64_t su_journal_last(const su_journal *j) {
  int64_t last = -1;
  for (int64_t i = 0; i < j->n; i++) {
    const su_series *s = j->at[i];
    if (s->n && s->rows[s->n - 1].step > last) last = s->rows[s->n - 1].step;
  }
  return last;
}

int64_t su_journal_drop_after(su_journal *j, int64_t step) {
  int64_t dropped = 0;
  for (int64_t i = 0; i < j->n; i++) {
    su_series *s = j->at[i];
    int64_t kept = 0;
    for (int64_t k = 0; k < s->n; k++)
      if (s->rows[k].step <= step) s->rows[kept++] = s->rows[k];
    dropped += s->n - kept;
    s->n = kept;
  }
  return dropped;
}

/* ---- the journal: writing ---- */

static bool replace_text(char **to, const char *text) {
  char *copy = su_strdup(text);
  if (!copy) return false;
  su_free(*to);
  *to = copy;
  return true;
}

bool su_journal_open(su_journal *j, const char *path) {
  su_files_init();
  if (!replace_text(&j->path, path)) return false;
  if (j->fd >= 0) close(j->fd);
  j->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  j->synced = su_now();
  return j->fd >= 0 || su_file_trouble(path, "open", "the journal", 0, j->intact, errno);
}

bool su_journal_empty(su_journal *j) {
  if (su_site("journal", "empty")) return su_file_trouble(j->path, "empty", "the journal", 0, j->intact, EIO);
  if (j->fd < 0 || ftruncate(j->fd, 0) == 0) return true;
  return su_file_trouble(j->path, "empty", "the journal", 0, j->intact, errno);
}

bool su_journal_intact(su_journal *j, const char *text) { return replace_text(&j->intact, text); }

static bool make_room(su_journal *j, size_t more) {
  if (j->used + more <= j->room) return true;
  size_t room = j->room ? j->room : 8192;
  while (room < j->used + more) room *= 2;
  char *buf = su_realloc(j->buf, room);
  if (!buf) return false;
  j->buf = buf;
  j->room = room;
  return true;
}

/* One write(). What a failed one left behind is cut off again, so that the next line starts on a line. */
static bool put_lines(su_journal *j) {
  if (j->fd < 0) return true;
  off_t before = lseek(j->fd, 0, SEEK_END);
  if (!su_write_all(j->fd, j->buf, j->used, "journal")) {
    int err = errno;
    if (before >= 0 && ftruncate(j->fd, before) != 0) err = errno;
    return su_file_trouble(j->path, "write", "the journal", j->used, j->intact, err);
  }
  if (su_now() - j->synced < SYNC_SECONDS) return true;
  j->synced = su_now();
  if (fdatasync(j->fd) == 0) return true;
  return su_file_trouble(j->path, "sync", "the journal", j->used, j->intact, errno);
}

bool su_journal_begin(su_journal *j, int64_t step, double seconds) {
  j->step = step;
  j->seconds = seconds;
  j->head_bytes = (size_t)snprintf(j->head, sizeof j->head, "%" PRId64 "\t%.17g\t", step, seconds);
  j->used = 0;
  j->guess = 0;
  return true;
}

bool su_journal_add(su_journal *j, const char *name, double value) {
  su_series *s = su_journal_get(j, name);
  size_t n = strlen(name);
  if (!s || !make_room(j, n + 96)) return false;
  char *p = j->buf + j->used;
  memcpy(p, j->head, j->head_bytes);
  memcpy(p + j->head_bytes, name, n);
  j->used += j->head_bytes + n;
  j->used += (size_t)snprintf(j->buf + j->used, j->room - j->used, "\t%.17g\n", value);
  return su_series_add(s, (su_row){j->step, j->seconds, value});
}

bool su_journal_end(su_journal *j) { return j->used == 0 || put_lines(j); }

static char *escape(char *to, const char *text) {
  for (; *text; text++) {
    const char *code = *text == '\t' ? "\\t" : *text == '\n' ? "\\n" : *text == '\\' ? "\\\\" : NULL;
    if (code) *to++ = code[0], *to++ = code[1];
    else *to++ = *text;
  }
  return to;
}

bool su_journal_note(su_journal *j, int64_t step, double seconds, const char *key, const char *text) {
  if (key[0] != '@' || strpbrk(key, "\t\n")) return su_fail("note '%s': keys look like '@event:resume'", key);
  j->used = 0;
  if (!make_room(j, strlen(key) + 2 * strlen(text) + 96)) return false;
  char *p = j->buf + snprintf(j->buf, j->room, "%" PRId64 "\t%.17g\t%s\t", step, seconds, key);
  p = escape(p, text);
  *p++ = '\n';
  j->used = (size_t)(p - j->buf);
  return put_lines(j);
}

/* ---- the journal: reading ---- */

typedef struct line { int64_t step; double seconds; char *name, *value; } line;

static void unescape(char *text) {
  char *to = text;
  for (; *text; text++) {
    if (*text == '\\' && text[1]) *to++ = *++text == 't' ? '\t' : *text == 'n' ? '\n' : *text;
    else *to++ = *text;
  }
  *to = 0;
}

/* Splits in place; false for a line that is none of ours. */
static bool parse(char *text, line *l) {
  char *end, *tab = strchr(text, '\t');
  if (!tab) return false;
  errno = 0;
  l->step = strtoll(text, &end, 10);
  if (end != tab || errno) return false;
  l->seconds = strtod(tab + 1, &end);
  if (end == tab + 1 || *end != '\t') return false;
  l->name = end + 1;
  tab = strchr(l->name, '\t');
  if (!tab || tab == l->name) return false;
  *tab = 0;
  l->value = tab + 1;
  return true;
}

/* 1 taken, 0 skipped, -1 out of memory or stopped by the callback. */
static int replay_line(su_journal *j, char *text, su_note_fn note, void *ctx) {
  line l;
  if (!parse(text, &l)) return 0;
  if (l.name[0] == '@') {
    unescape(l.value);
    return !note ? 0 : note(ctx, l.step, l.seconds, l.name, l.value) ? 1 : -1;
  }
  char *end;
  double value = strtod(l.value, &end);
  if (end == l.value || *end) return 0;
  if (!su_journal_find(j, l.name) && !check_name(l.name)) return 0;
  su_series *s = su_journal_get(j, l.name);
  if (!s) return -1;
  if (s->n && s->rows[s->n - 1].step >= l.step) return 0;
  return su_series_add(s, (su_row){l.step, l.seconds, value}) ? 1 : -1;
}

int64_t su_journal_replay(su_journal *j, char *text, su_note_fn note, void *ctx, int64_t *skipped) {
  int64_t taken = 0;
  *skipped = 0;
  for (char *p = text, *nl; (nl = strchr(p, '\n')) != NULL; p = nl + 1) {
    *nl = 0;
    int got = replay_line(j, p, note, ctx);
    if (got < 0) return -1;
    taken += got;
    *skipped += got == 0;
  }
  return taken;
}

/* ---- sealing ---- */

su_summary su_series_summary(const su_series *s) {
  su_summary m = {.last = s->rows[s->n - 1].value, .best = NAN, .best_step = -1};
  int64_t tail = s->n / 10 > 0 ? s->n / 10 : 1;
  for (int64_t i = 0; i < s->n; i++) {
    double v = s->rows[i].value;
    if (isnan(v) || (m.best_step >= 0 && !(s->higher ? v > m.best : v < m.best))) continue;
    m.best = v;
    m.best_step = s->rows[i].step;
  }
  for (int64_t i = s->n - tail; i < s->n; i++) m.mean += s->rows[i].value / (double)tail;
  return m;
}

static const su_column columns[] = {{"step", 'i', offsetof(su_row, step)},
                                    {"seconds", 'r', offsetof(su_row, seconds)},
                                    {"value", 'r', offsetof(su_row, value)}};

bool su_series_seal(const su_series *s, su_h5 *h, const char *path, bool squeeze) {
  su_table t = {.title = s->name, .columns = columns, .n_columns = 3, .rows = s->rows,
                .row_bytes = sizeof *s->rows, .n_rows = s->n, .squeeze = squeeze};
  return su_h5_table(h, path, &t);
}

bool su_series_read(su_series *s, su_h5 *h, const char *path) {
  su_columns c;
  if (!su_h5_columns(h, path, &c)) return false;
  bool ok = c.n == 3 && c.at[0].kind == 'i' && c.at[1].kind == 'r' && c.at[2].kind == 'r';
  if (!ok) su_fail("metric '%s' is not a table {step, seconds, value}", path);
  for (int64_t i = 0; ok && i < c.at[0].n; i++)
    ok = su_series_add(s, (su_row){c.at[0].ints[i], c.at[1].reals[i], c.at[2].reals[i]});
  su_columns_free(&c);
  return ok;
}
