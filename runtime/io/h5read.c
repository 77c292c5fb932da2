/* h5read.c -- reading HDF5: groups, attributes, numbers, text and tables. Never follows soft or external
 * links, external storage, virtual datasets or filters that are not built in. See h5.h. */
#include <stdio.h>
#include <string.h>

#include "h5in.h"

void su_h5_quiet(void) {
  static bool done;
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  if (done) return;
  H5open();
  H5PLset_loading_state(0);
  done = true;
}

su_h5 *su_h5_open(const char *path) {
  su_h5_quiet();
  su_h5 *h = su_calloc(sizeof *h);
  if (!h) return NULL;
  snprintf(h->name, sizeof h->name, "%s", path);
  hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(fapl, 0, 1);     /* files are replaced whole, so there is nothing to lock out */
#endif
  h->file = H5Fopen(path, H5F_ACC_RDONLY, fapl);
  H5Pclose(fapl);
  if (h->file >= 0) return h;
  su_h5_close(h);
  FILE *f = fopen(path, "rb");
  if (f) fclose(f);
  su_fail_code(f ? SU_ESCRIPT : SU_ENONE, "%s: %s", path,
               f ? "not an HDF5 file, or a damaged one" : "no such file");
  return NULL;
}

/* Every step of the path must be a hard link: nothing may lead out of the file. */
static bool hard_path(hid_t file, const char *path) {
  char part[1024];
  size_t n = strlen(path);
  if (n >= sizeof part) return false;
  for (size_t i = 1; i <= n; i++) {
    if ((path[i] != '/' && path[i]) || path[i - 1] == '/') continue;
    memcpy(part, path, i);
    part[i] = 0;
    H5L_info_t info;
    if (strcmp(part, ".") == 0) continue;
    if (H5Lget_info(file, part, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD) return false;
  }
  return true;
}

char su_h5_kind(su_h5 *h, const char *path) {
  if (!*path || strcmp(path, "/") == 0) return 'g';
  if (!hard_path(h->file, path)) return 0;
  H5O_info_t info;
  if (H5Oget_info_by_name(h->file, path, &info, H5P_DEFAULT) < 0) return 0;
  return info.type == H5O_TYPE_GROUP ? 'g' : info.type == H5O_TYPE_DATASET ? 'd' : '?';
}

static herr_t add_link(hid_t group, const char *name, const H5L_info_t *info, void *names) {
  (void)group;
  if (info->type != H5L_TYPE_HARD) return 0;
  return su_names_add(names, name) ? 0 : -1;
}

static herr_t add_attr(hid_t obj, const char *name, const H5A_info_t *info, void *names) {
  (void)obj;
  (void)info;
  return su_names_add(names, name) ? 0 : -1;
}

static bool missing(const su_h5 *h, const char *path, const char *what) {
  return su_fail("%s: no %s '%s'", h->name, what, path);
}

bool su_h5_list(su_h5 *h, const char *path, su_names *out) {
  *out = (su_names){0};
  if (su_h5_kind(h, path) != 'g') return missing(h, path, "group");
  hid_t g = H5Gopen2(h->file, *path ? path : "/", H5P_DEFAULT);
  bool ok = g >= 0 && H5Literate(g, H5_INDEX_NAME, H5_ITER_INC, NULL, add_link, out) >= 0;
  if (g >= 0) H5Gclose(g);
  if (ok) return true;
  su_names_free(out);
  return su_fail("%s: cannot list '%s'", h->name, path);
}

static hid_t object(su_h5 *h, const char *path) {
  if (!su_h5_kind(h, path)) return -1;
  return H5Oopen(h->file, *path ? path : "/", H5P_DEFAULT);
}

bool su_h5_attrs(su_h5 *h, const char *path, su_names *out) {
  *out = (su_names){0};
  hid_t obj = object(h, path);
  if (obj < 0) return missing(h, path, "object");
  bool ok = H5Aiterate2(obj, H5_INDEX_NAME, H5_ITER_INC, NULL, add_attr, out) >= 0;
  H5Oclose(obj);
  if (ok) return true;
  su_names_free(out);
  return su_fail("%s: cannot list the attributes of '%s'", h->name, path);
}

/* ---- values ---- */

void su_value_free(su_value *v) {
  su_free(v->ints);
  su_free(v->reals);
  su_names_free(&v->texts);
  *v = (su_value){0};
}

static bool set_shape(hid_t space, su_value *v) {
  hsize_t dims[H5S_MAX_RANK];
  int ndim = H5Sget_simple_extent_ndims(space);
  if (ndim < 0 || ndim > SU_MAX_DIM) return false;
  v->ndim = ndim;
  v->n = H5Sget_simple_extent_type(space) == H5S_NULL ? 0 : 1;
  if (ndim && H5Sget_simple_extent_dims(space, dims, NULL) < 0) return false;
  for (int i = 0; i < ndim; i++) {
    v->shape[i] = (int64_t)dims[i];
    if (dims[i] && (uint64_t)v->n > (uint64_t)INT64_MAX / 16 / dims[i]) return false;
    v->n *= v->shape[i];
  }
  return true;
}

/* Where numbers and texts come from: a dataset or an attribute. */
typedef struct source { hid_t id; bool is_attr; } source;

static herr_t fetch(source s, hid_t type, void *to) {
  return s.is_attr ? H5Aread(s.id, type, to) : H5Dread(s.id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to);
}

static bool read_fixed_texts(source s, hid_t type, su_value *v) {
  size_t size = H5Tget_size(type);
  char *buf = su_calloc((size_t)v->n * size), *one = su_malloc(size + 1);
  bool ok = buf && one && fetch(s, type, buf) >= 0;
  for (int64_t i = 0; ok && i < v->n; i++) {
    memcpy(one, buf + (size_t)i * size, size);
    one[size] = 0;
    ok = su_names_add(&v->texts, one);
  }
  su_free(one);
  su_free(buf);
  return ok;
}

static bool read_texts(source s, hid_t type, hid_t space, su_value *v) {
  v->kind = 't';
  if (v->n == 0) return true;
  if (!H5Tis_variable_str(type)) return read_fixed_texts(s, type, v);
  char **at = su_calloc((size_t)v->n * sizeof *at);
  hid_t memory = H5Tcopy(H5T_C_S1);
  H5Tset_size(memory, H5T_VARIABLE);
  H5Tset_cset(memory, H5Tget_cset(type));
  bool ok = at && fetch(s, memory, at) >= 0, all = ok;
  for (int64_t i = 0; all && i < v->n; i++) all = su_names_add(&v->texts, at[i] ? at[i] : "");
  if (ok) H5Dvlen_reclaim(memory, space, H5P_DEFAULT, at);
  H5Tclose(memory);
  su_free(at);
  return all;
}

/* h5py's bool is an enum of int8; other enums are read as their numbers. */
static bool read_numbers(source s, hid_t type, su_value *v) {
  H5T_class_t class = H5Tget_class(type);
  size_t bytes = (size_t)v->n * 8;
  if (class == H5T_FLOAT) {
    v->kind = 'r';
    v->reals = su_malloc(bytes);
    return v->reals && (v->n == 0 || fetch(s, H5T_NATIVE_DOUBLE, v->reals) >= 0);
  }
  v->kind = class == H5T_ENUM ? 'b' : 'i';
  v->ints = su_malloc(bytes);
  if (!v->ints || v->n == 0) return v->ints != NULL;
  if (class == H5T_INTEGER) return fetch(s, H5T_NATIVE_INT64, v->ints) >= 0;
  if (H5Tget_size(type) != 1 || fetch(s, type, v->ints) < 0) return false;
  for (int64_t i = v->n - 1; i >= 0; i--) v->ints[i] = ((const int8_t *)v->ints)[i];
  return true;
}

static bool read_value(source s, hid_t type, hid_t space, su_value *v) {
  H5T_class_t class = H5Tget_class(type);
  if (!set_shape(space, v)) return false;
  if (class == H5T_STRING) return read_texts(s, type, space, v);
  if (class == H5T_FLOAT || class == H5T_INTEGER || class == H5T_ENUM) return read_numbers(s, type, v);
  return false;
}

bool su_h5_attr(su_h5 *h, const char *path, const char *name, su_value *out) {
  *out = (su_value){0};
  hid_t obj = object(h, path);
  if (obj < 0) return missing(h, path, "object");
  hid_t a = H5Aexists(obj, name) > 0 ? H5Aopen(obj, name, H5P_DEFAULT) : -1;
  H5Oclose(obj);
  if (a < 0) return su_fail("%s: '%s' has no attribute '%s'", h->name, path, name);
  hid_t type = H5Aget_type(a), space = H5Aget_space(a);
  bool ok = read_value((source){a, true}, type, space, out);
  H5Sclose(space);
  H5Tclose(type);
  H5Aclose(a);
  if (ok) return true;
  su_value_free(out);
  return su_fail("%s: cannot read attribute '%s' of '%s'", h->name, name, path);
}

/* External storage and virtual datasets would make us open other files. */
static bool self_contained(hid_t d) {
  hid_t dcpl = H5Dget_create_plist(d);
  bool ok = dcpl >= 0 && H5Pget_external_count(dcpl) == 0 && H5Pget_layout(dcpl) != H5D_VIRTUAL;
  if (dcpl >= 0) H5Pclose(dcpl);
  return ok;
}

static hid_t dataset(su_h5 *h, const char *path) {
  if (su_h5_kind(h, path) != 'd') return missing(h, path, "dataset"), -1;
  hid_t d = H5Dopen2(h->file, path, H5P_DEFAULT);
  if (d >= 0 && self_contained(d)) return d;
  if (d >= 0) H5Dclose(d);
  su_fail("%s: cannot open dataset '%s', or it lies in another file", h->name, path);
  return -1;
}

bool su_h5_read(su_h5 *h, const char *path, su_value *out) {
  *out = (su_value){0};
  hid_t d = dataset(h, path);
  if (d < 0) return false;
  hid_t type = H5Dget_type(d), space = H5Dget_space(d);
  bool ok = read_value((source){d, false}, type, space, out);
  H5Sclose(space);
  H5Tclose(type);
  H5Dclose(d);
  if (ok) return true;
  su_value_free(out);
  return su_fail("%s: cannot read dataset '%s'", h->name, path);
}

/* ---- numbers ---- */

static int dtype_of(su_h5 *h, const char *path, hid_t type) {
  static const int all[] = {SU_F32, SU_F64, SU_U8, SU_I32, SU_BF16};
  const hid_t types[] = {H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_STD_U8LE, H5T_STD_I32LE, H5T_STD_U16LE};
  for (int i = 0; i < 4; i++)
    if (H5Tequal(type, types[i]) > 0) return all[i];
  su_value v;
  if (H5Tequal(type, types[4]) <= 0 || !su_h5_attr(h, path, "dtype", &v)) return -1;
  bool bf16 = v.kind == 't' && v.n == 1 && strcmp(v.texts.at[0], "bf16") == 0;
  su_value_free(&v);
  return bf16 ? SU_BF16 : -1;
}

static bool spec_of(su_h5 *h, const char *path, hid_t d, su_spec *spec, int64_t *n) {
  hid_t type = H5Dget_type(d), space = H5Dget_space(d);
  su_value v = {0};
  bool ok = set_shape(space, &v);
  *spec = (su_spec){.dtype = dtype_of(h, path, type), .ndim = v.ndim};
  memcpy(spec->shape, v.shape, sizeof v.shape);
  *n = v.n;
  H5Sclose(space);
  H5Tclose(type);
  return ok || su_fail("%s: '%s' has more than %d dimensions", h->name, path, SU_MAX_DIM);
}

double *su_h5_doubles(su_h5 *h, const char *path, su_spec *spec) {
  int64_t n = 0;
  hid_t d = dataset(h, path);
  if (d < 0) return NULL;
  double *to = spec_of(h, path, d, spec, &n) ? su_malloc((size_t)n * sizeof *to) : NULL;
  bool ok = to && (n == 0 || H5Dread(d, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) >= 0);
  H5Dclose(d);
  if (ok) return to;
  if (to) su_fail("%s: '%s' holds no numbers", h->name, path);
  su_free(to);
  return NULL;
}

bool su_h5_shape(su_h5 *h, const char *path, su_spec *spec) {
  int64_t n = 0;
  hid_t d = dataset(h, path);
  if (d < 0) return false;
  bool ok = spec_of(h, path, d, spec, &n);
  H5Dclose(d);
  return ok;
}

bool su_h5_place(su_h5 *h, const char *path, su_spec *spec, size_t *at) {
  int64_t n = 0;
  hid_t d = dataset(h, path);
  if (d < 0) return false;
  hid_t dcpl = H5Dget_create_plist(d);
  bool ok = spec_of(h, path, d, spec, &n), plain = H5Pget_layout(dcpl) == H5D_CONTIGUOUS;
  haddr_t offset = ok && plain && n ? H5Dget_offset(d) : 0;
  H5Pclose(dcpl);
  H5Dclose(d);
  *at = (size_t)offset;
  if (!ok) return false;
  if (spec->dtype < 0 || !plain || offset == HADDR_UNDEF)
    return su_fail("%s: '%s' is not a plain dataset of f32, bf16, f64, u8 or i32", h->name, path);
  return true;
}

/* ---- tables ---- */

void su_columns_free(su_columns *c) {
  for (int i = 0; i < c->n; i++) su_value_free(&c->at[i]);
  su_free(c->at);
  su_names_free(&c->names);
  *c = (su_columns){0};
}

/* One member of every row, by a compound type of that member alone. */
static bool read_column(hid_t d, hid_t row, unsigned i, hid_t space, su_value *v) {
  char *name = H5Tget_member_name(row, i);
  hid_t member = H5Tget_member_type(row, i);
  H5T_class_t class = H5Tget_class(member);
  hid_t native = class == H5T_STRING ? H5Tcopy(member)
               : H5Tcopy(class == H5T_FLOAT ? H5T_NATIVE_DOUBLE : H5T_NATIVE_INT64);
  hid_t one = H5Tcreate(H5T_COMPOUND, H5Tget_size(native));
  bool ok = H5Tinsert(one, name, 0, native) >= 0 && set_shape(space, v);
  v->kind = class == H5T_STRING ? 't' : class == H5T_FLOAT ? 'r' : 'i';
  void *to = ok ? su_malloc((size_t)(v->n ? v->n : 1) * H5Tget_size(native)) : NULL;
  ok = to && (class != H5T_STRING || H5Tis_variable_str(member)) &&
       (v->n == 0 || H5Dread(d, one, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) >= 0);
  if (class == H5T_STRING) {
    char **text = to;
    for (int64_t k = 0; ok && k < v->n; k++) ok = su_names_add(&v->texts, text[k] ? text[k] : "");
    if (ok && v->n) H5Dvlen_reclaim(one, space, H5P_DEFAULT, to);
    su_free(to);
  } else if (class == H5T_FLOAT) {
    v->reals = to;
  } else {
    v->ints = to;
  }
  H5Tclose(one);
  H5Tclose(native);
  H5Tclose(member);
  H5free_memory(name);
  return ok;
}

static bool read_columns(hid_t d, hid_t row, hid_t space, su_columns *out) {
  int n = H5Tget_class(row) == H5T_COMPOUND ? H5Tget_nmembers(row) : 0;
  if (n <= 0) return false;
  out->at = su_calloc((size_t)n * sizeof *out->at);
  for (int i = 0; out->at && i < n; i++) {
    char *name = H5Tget_member_name(row, (unsigned)i);
    bool ok = name && su_names_add(&out->names, name);
    H5free_memory(name);
    out->n = i + 1;
    if (!ok || !read_column(d, row, (unsigned)i, space, &out->at[i])) return false;
  }
  return out->at != NULL;
}

bool su_h5_columns(su_h5 *h, const char *path, su_columns *out) {
  *out = (su_columns){0};
  hid_t d = dataset(h, path);
  if (d < 0) return false;
  hid_t row = H5Dget_type(d), space = H5Dget_space(d);
  bool ok = read_columns(d, row, space, out);
  H5Sclose(space);
  H5Tclose(row);
  H5Dclose(d);
  if (ok) return true;
  su_columns_free(out);
  return su_fail("%s: '%s' is not a table", h->name, path);
}
