/* h5.h -- HDF5 without its hands on our files: images are built in memory (core driver) and written by
 * file.h; existing files are opened for reading only. Default library version bounds and built-in filters,
 * so HDF5 1.8, h5py, pandas, MATLAB and R read what is made here. Text is variable-length UTF-8, tables
 * follow the HDF5 Table specification (HDF5 docs, "HDF5 Table Specification 1.0"), which is what
 * pandas.read_hdf and PyTables understand.
 *
 * libhdf5 is not reentrant: only one thread at a time may be inside any function of this header. Its own
 * error printing is switched off; what it refused becomes su_error(). Paths inside a file are absolute or
 * relative to its root. */
#ifndef SUMI_IO_H5_H
#define SUMI_IO_H5_H

#include "../tensor.h"
#include "file.h"

typedef struct su_h5 su_h5;            /* an image being built or a file open for reading */
void su_h5_close(su_h5 *h);            /* also drops an image that was not ended; NULL is fine */

/* ---- building ---- */

typedef struct su_image { unsigned char *data; size_t bytes; } su_image;   /* su_free(data) */

/* Starts an image that begins with `user` zero bytes (0, or 512 times a power of two) before HDF5's own;
 * `expect` is about how large it will be, in bytes, so that memory is got once. */
su_h5 *su_h5_begin(size_t user, size_t expect);
/* Ends it and hands over the very buffer libhdf5 worked in (no copy). h is closed either way. */
bool su_h5_end(su_h5 *h, su_image *out);

bool su_h5_group(su_h5 *h, const char *path);                 /* with parents; may exist */
/* Attributes of an existing object, replaced if they are there. */
bool su_h5_set_text(su_h5 *h, const char *path, const char *name, const char *text);
bool su_h5_set_int(su_h5 *h, const char *path, const char *name, int64_t value);
bool su_h5_set_real(su_h5 *h, const char *path, const char *name, double value);
bool su_h5_set_bool(su_h5 *h, const char *path, const char *name, bool value);
bool su_h5_set_reals(su_h5 *h, const char *path, const char *name, const double *values, int64_t n);
bool su_h5_set_texts(su_h5 *h, const char *path, const char *name, const char *const *values, int64_t n);
bool su_h5_text(su_h5 *h, const char *path, const char *text);         /* a scalar dataset; parents are made */

/* Tables. kind: 'i' int64_t, 'r' double, 't' const char *; offset: where it lies in a row. */
typedef struct su_column { const char *name; char kind; size_t offset; } su_column;
typedef struct su_table {
  const char *title;
  const su_column *columns;
  int n_columns;
  const void *rows;
  size_t row_bytes;
  int64_t n_rows;
  bool squeeze;                        /* shuffle and deflate */
} su_table;
bool su_h5_table(su_h5 *h, const char *path, const su_table *t);

/* A contiguous dataset whose numbers the caller fills in after su_h5_end, at image.data + *at. dtype as
 * su_dtype (bf16 is stored as uint16 with the attribute dtype = "bf16"). Shapes with no elements have *at =
 * 0. */
bool su_h5_hole(su_h5 *h, const char *path, const su_spec *spec, size_t *at);

/* ---- reading ---- */

su_h5 *su_h5_open(const char *path);
/* 'g' group, 'd' dataset, '?' something else, 0 nothing there. */
char su_h5_kind(su_h5 *h, const char *path);
bool su_h5_list(su_h5 *h, const char *path, su_names *out);          /* children, sorted by name */
bool su_h5_attrs(su_h5 *h, const char *path, su_names *out);         /* names of attributes, sorted */

/* A value read: kind 'i', 'r', 'b' or 't'; n values, ndim 0 for a scalar. Free with su_value_free. */
typedef struct su_value {
  char kind;
  int ndim;
  int64_t n, shape[SU_MAX_DIM];
  int64_t *ints;                       /* 'i' and 'b' */
  double *reals;                       /* 'r' */
  su_names texts;                      /* 't' */
} su_value;
void su_value_free(su_value *v);
bool su_h5_attr(su_h5 *h, const char *path, const char *name, su_value *out);
bool su_h5_read(su_h5 *h, const char *path, su_value *out);          /* a dataset that is no table */
/* Any dataset of numbers as doubles, su_malloc'ed, spec->dtype being what it is stored as (-1: another
 * number type). */
double *su_h5_doubles(su_h5 *h, const char *path, su_spec *spec);

/* Shape and dtype (-1: no dtype of ours) without reading; a dataset of numbers. */
bool su_h5_shape(su_h5 *h, const char *path, su_spec *spec);

/* A table as columns, each an su_value of ndim 1. */
typedef struct su_columns { int n; su_names names; su_value *at; } su_columns;
bool su_h5_columns(su_h5 *h, const char *path, su_columns *out);
void su_columns_free(su_columns *c);

/* Where a contiguous, unfiltered dataset of one of our dtypes lies in its file; false with a message if it
 * is none. *at = 0 for a dataset without elements. */
bool su_h5_place(su_h5 *h, const char *path, su_spec *spec, size_t *at);

#endif
