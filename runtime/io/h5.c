/* h5.c -- building HDF5 images in memory. Reading is in h5read.c. See h5.h. */
#include "h5.h"

#include <stdio.h>
#include <string.h>

#include "h5in.h"

/* ---- the buffer libhdf5 works in ---- */

/* The core driver asks these for its memory, so that it is counted and, when the file closes, kept instead
 * of freed. */
static void *image_malloc(size_t size, H5FD_file_image_op_t op, void *udata) {
  (void)op;
  su_h5 *h = udata;
  h->image = su_malloc(size);
  h->room = h->image ? size : 0;
  return h->image;
}

static void *image_realloc(void *p, size_t size, H5FD_file_image_op_t op, void *udata) {
  (void)op;
  su_h5 *h = udata;
  void *q = su_realloc(p, size);
  if (q) h->image = q, h->room = size;
  return q;
}

static herr_t image_free(void *p, H5FD_file_image_op_t op, void *udata) {
  su_h5 *h = udata;
  if (op == H5FD_FILE_IMAGE_OP_FILE_CLOSE) return 0;       /* h->image stays ours */
  if (p == h->image) h->image = NULL;
  su_free(p);
  return 0;
}

/* One su_h5 per file: copies of the access list share it. */
static void *udata_copy(void *udata) { return udata; }
static herr_t udata_free(void *udata) { (void)udata; return 0; }

static bool begin(su_h5 *h, size_t user, size_t expect) {
  H5FD_file_image_callbacks_t own = {image_malloc, NULL, image_realloc, image_free, udata_copy, udata_free, h};
  hid_t fapl = H5Pcreate(H5P_FILE_ACCESS), fcpl = H5Pcreate(H5P_FILE_CREATE);
  size_t step = expect < ((size_t)1 << 16) ? (size_t)1 << 16 : expect;
  bool ok = H5Pset_fapl_core(fapl, step, 0) >= 0 && H5Pset_file_image_callbacks(fapl, &own) >= 0 &&
            (user == 0 || H5Pset_userblock(fcpl, user) >= 0);
  if (ok) h->file = H5Fcreate("image", H5F_ACC_TRUNC, fcpl, fapl);
  H5Pclose(fapl);
  H5Pclose(fcpl);
  return ok && h->file >= 0;
}

su_h5 *su_h5_begin(size_t user, size_t expect) {
  su_h5_quiet();
  su_h5 *h = su_calloc(sizeof *h);
  if (!h) return NULL;
  h->file = -1;
  h->user = user;
  snprintf(h->name, sizeof h->name, "HDF5 image");
  if (begin(h, user, expect)) return h;
  su_h5_close(h);
  su_fail_code(SU_EMACHINE, "HDF5: cannot begin an image of %zu bytes: out of memory?", expect);
  return NULL;
}

void su_h5_close(su_h5 *h) {
  if (!h) return;
  if (h->file >= 0) H5Fclose(h->file);
  su_free(h->image);
  su_free(h);
}

/* The end-of-file address in a version 0 superblock (HDF5 file format specification, II.A): absolute, byte
 * 40. */
static size_t recorded_end(const unsigned char *superblock) {
  uint64_t end = 0;
  for (int i = 7; i >= 0; i--) end = end << 8 | superblock[40 + i];
  return (size_t)end;
}

bool su_h5_end(su_h5 *h, su_image *out) {
  *out = (su_image){0};
  bool ok = H5Fflush(h->file, H5F_SCOPE_LOCAL) >= 0;
  ok = H5Fclose(h->file) >= 0 && ok;
  h->file = -1;
  size_t end = 0;
  if (ok && h->image && h->room >= h->user + 48) end = recorded_end(h->image + h->user);
  ok = ok && end > h->user + 48 && end <= h->room && h->image[h->user + 8] == 0;
  if (ok) {
    *out = (su_image){h->image, end};
    h->image = NULL;
  } else {
    su_fail_code(SU_EMACHINE, "HDF5: cannot end an image of %zu bytes (out of memory?)", h->room);
  }
  su_h5_close(h);
  return ok;
}

/* ---- groups and attributes ---- */

static hid_t parents(void) {
  hid_t lcpl = H5Pcreate(H5P_LINK_CREATE);
  H5Pset_create_intermediate_group(lcpl, 1);
  return lcpl;
}

static bool failed(const su_h5 *h, const char *path, const char *what) {
  return su_fail("%s: cannot make %s '%s'", h->name, what, path);
}

bool su_h5_group(su_h5 *h, const char *path) {
  char kind = su_h5_kind(h, path);
  if (kind == 'g') return true;
  if (kind) return su_fail("%s: '%s' is a dataset, a group is wanted there", h->name, path);
  hid_t lcpl = parents(), g = H5Gcreate2(h->file, path, lcpl, H5P_DEFAULT, H5P_DEFAULT);
  H5Pclose(lcpl);
  if (g < 0) return failed(h, path, "group");
  H5Gclose(g);
  return true;
}

hid_t su_h5_string_type(void) {
  hid_t t = H5Tcopy(H5T_C_S1);
  H5Tset_size(t, H5T_VARIABLE);
  H5Tset_cset(t, H5T_CSET_UTF8);
  return t;
}

/* n < 0: a scalar. */
static bool set(su_h5 *h, const char *path, const char *name, hid_t file_type, hid_t type, const void *data,
                int64_t n) {
  hsize_t dim = (hsize_t)n;
  hid_t obj = H5Oopen(h->file, path, H5P_DEFAULT), space = -1, attr = -1;
  bool ok = obj >= 0;
  if (ok && H5Aexists(obj, name) > 0) ok = H5Adelete(obj, name) >= 0;
  if (ok)
    space = n < 0 ? H5Screate(H5S_SCALAR) : n == 0 ? H5Screate(H5S_NULL) : H5Screate_simple(1, &dim, NULL);
  if (ok) attr = H5Acreate2(obj, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
  ok = ok && attr >= 0 && (n == 0 || H5Awrite(attr, type, data) >= 0);
  if (attr >= 0) H5Aclose(attr);
  if (space >= 0) H5Sclose(space);
  if (obj >= 0) H5Oclose(obj);
  return ok || su_fail("%s: cannot set attribute '%s' of '%s'", h->name, name, path);
}

bool su_h5_set_texts(su_h5 *h, const char *path, const char *name, const char *const *values, int64_t n) {
  hid_t t = su_h5_string_type();
  bool ok = set(h, path, name, t, t, values, n);
  H5Tclose(t);
  return ok;
}

bool su_h5_set_text(su_h5 *h, const char *path, const char *name, const char *text) {
  return su_h5_set_texts(h, path, name, &text, -1);
}

bool su_h5_set_int(su_h5 *h, const char *path, const char *name, int64_t value) {
  return set(h, path, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value, -1);
}

bool su_h5_set_reals(su_h5 *h, const char *path, const char *name, const double *values, int64_t n) {
  return set(h, path, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, values, n);
}

bool su_h5_set_real(su_h5 *h, const char *path, const char *name, double value) {
  return su_h5_set_reals(h, path, name, &value, -1);
}

/* An enum of int8 {FALSE, TRUE}: what h5py makes of and reads as a bool. */
bool su_h5_set_bool(su_h5 *h, const char *path, const char *name, bool value) {
  hid_t t = H5Tenum_create(H5T_NATIVE_INT8);
  int8_t v = 0;
  H5Tenum_insert(t, "FALSE", &v);
  v = 1;
  H5Tenum_insert(t, "TRUE", &v);
  v = value;
  bool ok = set(h, path, name, t, t, &v, -1);
  H5Tclose(t);
  return ok;
}

/* ---- datasets ---- */

bool su_h5_text(su_h5 *h, const char *path, const char *text) {
  hid_t t = su_h5_string_type(), space = H5Screate(H5S_SCALAR), lcpl = parents();
  hid_t d = H5Dcreate2(h->file, path, t, space, lcpl, H5P_DEFAULT, H5P_DEFAULT);
  bool ok = d >= 0 && H5Dwrite(d, t, H5S_ALL, H5S_ALL, H5P_DEFAULT, &text) >= 0;
  if (d >= 0) H5Dclose(d);
  H5Pclose(lcpl);
  H5Sclose(space);
  H5Tclose(t);
  return ok || failed(h, path, "text");
}

/* Fixed-length, as the Table specification wants for its own attributes. */
static bool set_fixed(hid_t obj, const char *name, const char *text) {
  hid_t t = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
  H5Tset_size(t, strlen(text) + 1);
  hid_t a = H5Acreate2(obj, name, t, space, H5P_DEFAULT, H5P_DEFAULT);
  bool ok = a >= 0 && H5Awrite(a, t, text) >= 0;
  if (a >= 0) H5Aclose(a);
  H5Sclose(space);
  H5Tclose(t);
  return ok;
}

static size_t kind_size(char kind) { return kind == 't' ? sizeof(char *) : 8; }

static hid_t column_type(char kind, bool in_file) {
  if (kind == 't') return su_h5_string_type();
  if (kind == 'i') return H5Tcopy(in_file ? H5T_STD_I64LE : H5T_NATIVE_INT64);
  return H5Tcopy(in_file ? H5T_IEEE_F64LE : H5T_NATIVE_DOUBLE);
}

/* The row as it lies in memory, or packed as it lies in the file. */
static hid_t row_type(const su_table *t, bool in_file) {
  size_t packed = 0, at = 0;
  for (int i = 0; i < t->n_columns; i++) packed += kind_size(t->columns[i].kind);
  hid_t row = H5Tcreate(H5T_COMPOUND, in_file ? packed : t->row_bytes);
  for (int i = 0; i < t->n_columns; i++) {
    const su_column *c = &t->columns[i];
    hid_t type = column_type(c->kind, in_file);
    H5Tinsert(row, c->name, in_file ? at : c->offset, type);
    at += kind_size(c->kind);
    H5Tclose(type);
  }
  return row;
}

static bool table_attributes(hid_t d, const su_table *t) {
  bool ok = set_fixed(d, "CLASS", "TABLE") && set_fixed(d, "VERSION", "3.0") &&
            set_fixed(d, "TITLE", t->title ? t->title : "");
  for (int i = 0; ok && i < t->n_columns; i++) {
    char name[32];
    snprintf(name, sizeof name, "FIELD_%d_NAME", i);
    ok = set_fixed(d, name, t->columns[i].name);
  }
  return ok;
}

/* Tables must be chunked to be tables for PyTables. Large chunks: few of them, little index. */
static hid_t table_layout(const su_table *t) {
  hsize_t chunk = t->n_rows < 1 ? 1 : t->n_rows > 16384 ? 16384 : (hsize_t)t->n_rows;
  hid_t dcpl = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(dcpl, 1, &chunk);
  if (!t->squeeze) return dcpl;
  H5Pset_shuffle(dcpl);
  H5Pset_deflate(dcpl, 6);
  return dcpl;
}

bool su_h5_table(su_h5 *h, const char *path, const su_table *t) {
  hsize_t n = (hsize_t)t->n_rows, more = H5S_UNLIMITED;
  hid_t memory = row_type(t, false), packed = row_type(t, true), lcpl = parents(), dcpl = table_layout(t);
  hid_t space = H5Screate_simple(1, &n, &more);
  hid_t d = H5Dcreate2(h->file, path, packed, space, lcpl, dcpl, H5P_DEFAULT);
  bool ok = d >= 0 && (n == 0 || H5Dwrite(d, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, t->rows) >= 0) &&
            table_attributes(d, t);
  if (d >= 0) H5Dclose(d);
  H5Sclose(space);
  H5Pclose(dcpl);
  H5Pclose(lcpl);
  H5Tclose(packed);
  H5Tclose(memory);
  return ok || failed(h, path, "table");
}

static hid_t dtype_type(int dtype) {
  switch (dtype) {
    case SU_F32: return H5T_IEEE_F32LE;
    case SU_F64: return H5T_IEEE_F64LE;
    case SU_BF16: return H5T_STD_U16LE;
    case SU_U8: return H5T_STD_U8LE;
    default: return H5T_STD_I32LE;
  }
}

bool su_h5_hole(su_h5 *h, const char *path, const su_spec *spec, size_t *at) {
  hsize_t dims[SU_MAX_DIM];
  bool empty = false;
  for (int i = 0; i < spec->ndim; i++) dims[i] = (hsize_t)spec->shape[i], empty = empty || spec->shape[i] == 0;
  hid_t dcpl = H5Pcreate(H5P_DATASET_CREATE), lcpl = parents();
  H5Pset_layout(dcpl, H5D_CONTIGUOUS);
  H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(dcpl, H5D_FILL_TIME_NEVER);
  hid_t space = spec->ndim ? H5Screate_simple(spec->ndim, dims, NULL) : H5Screate(H5S_SCALAR);
  hid_t d = H5Dcreate2(h->file, path, dtype_type(spec->dtype), space, lcpl, dcpl, H5P_DEFAULT);
  haddr_t offset = d >= 0 && !empty ? H5Dget_offset(d) : 0;
  if (d >= 0) H5Dclose(d);
  H5Sclose(space);
  H5Pclose(lcpl);
  H5Pclose(dcpl);
  if (d < 0 || offset == HADDR_UNDEF) return failed(h, path, "dataset");
  *at = (size_t)offset;
  return spec->dtype != SU_BF16 || su_h5_set_text(h, path, "dtype", "bf16");
}
