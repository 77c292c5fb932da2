"""The oracle of tests/test_image.c. `pillow.py make` writes the small files here and golden.tsv from Pillow's own
pixels; `pillow.py check TEST_IMAGE [FOLDER...]` compares random sizes, filters and channels, and every image below
the folders. Needs Pillow and numpy; `make test` needs neither."""
import gzip, hashlib, os, random, struct, subprocess, sys, tempfile
import numpy as np
from PIL import Image, ImageOps

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def pattern(h, w, c):
    y, x, k = np.mgrid[0:h, 0:w, 0:c]
    return ((x * 37 + y * 101 + k * 67 + ((x * y) ^ (x * x * 3 + y)) * 29) & 255).astype(np.uint8)


def image(a):
    return Image.fromarray(a[:, :, 0] if a.shape[2] == 1 else a, MODES[a.shape[2]])


def resize(im, w, h, name):
    """Columns, then rows: up to Pillow 12 that is resize((w, h)); 13 starts with the rows of some tall images."""
    whole = {"LA": "La", "RGBA": "RGBa"}.get(im.mode, im.mode)
    if im.size == (w, h):
        return im
    return im.convert(whole).resize((w, im.height), FILTERS[name]).resize((w, h), FILTERS[name]).convert(im.mode)


def pixels(im):
    return np.asarray(im).tobytes()


def sha(b):
    return hashlib.sha256(b).hexdigest()


def smooth(h, w, c):
    """Something a lossy coder leaves recognisable: slopes, a disc, a little texture."""
    y, x = np.mgrid[0:h, 0:w]
    disc = 255 * ((x - w / 2) ** 2 + (y - h / 2) ** 2 < (h / 3) ** 2)
    planes = [x * 255 / w, y * 255 / h, disc, 64 + (x * 9 + y * 5) % 128]
    return np.stack(planes[:c], 2).astype(np.uint8)


def native(im):
    """The channels that Sumi reads a file with."""
    if im.mode == "1":
        im = im.convert("L")
    if im.mode in ("I;16", "I"):
        im = Image.fromarray((np.asarray(im).astype(np.int64) >> 8).astype(np.uint8))
    if im.mode == "P":
        im = im.convert("RGBA" if "transparency" in im.info else "RGB")
    if im.mode in ("L", "RGB") and "transparency" in im.info:
        im = im.convert("LA" if im.mode == "L" else "RGBA")
    return ImageOps.exif_transpose(im)


def write_files():
    rgb, gray, rgba = smooth(41, 61, 3), smooth(41, 61, 1), smooth(41, 61, 4)

    def save(name, a, **kw):
        (a if isinstance(a, Image.Image) else image(a)).save(os.path.join(HERE, name), **kw)

    save("colour.jpg", rgb, quality=85)
    save("sharp.jpg", rgb, quality=90, subsampling=0)
    save("half.jpg", rgb, quality=80, subsampling=1)
    save("progressive.jpg", rgb, quality=80, progressive=True)
    save("gray.jpg", gray, quality=85)
    save("cmyk.jpg", image(rgb).convert("CMYK"), quality=80)
    for o in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = o
        save(f"turned{o}.jpg", rgb, quality=85, exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 6
    save("turned6.png", rgb, exif=exif)
    save("turned6.webp", rgb, exif=exif, quality=80)
    save("gray.png", gray)
    save("bits1.png", Image.fromarray(gray[:, :, 0] > 99))
    save("palette.png", image(rgb).quantize(16))
    save("palette_clear.png", image(rgb).quantize(16), transparency=3)
    save("la.png", rgba[:, :, [0, 3]])
    save("rgb.png", rgb)
    save("rgba.png", rgba)
    save("bits16.png", Image.fromarray((gray[:, :, 0].astype(np.uint16) * 257 + 130)))
    save("lossy.webp", rgb, quality=80)
    save("lossless.webp", rgba, lossless=True, exact=True)
    frames = [image(rgb), image(255 - rgb)]
    frames[0].save(os.path.join(HERE, "moving.webp"), save_all=True, append_images=frames[1:])
    whole = open(os.path.join(HERE, "colour.jpg"), "rb").read()

    def raw(name, b):
        open(os.path.join(HERE, name), "wb").write(b)

    raw("truncated.jpg", whole[:len(whole) * 6 // 10])
    raw("truncated.png", open(os.path.join(HERE, "rgb.png"), "rb").read()[:-60])
    raw("truncated.webp", open(os.path.join(HERE, "lossy.webp"), "rb").read()[:-60])
    raw("empty.jpg", b"")
    raw("text.jpg", b"this is no picture\n")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    raw("huge.png", b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    digits = b"\0\0\x08\x03" + struct.pack(">III", 3, 4, 5) + bytes(i * 3 for i in range(60))
    raw("digits.idx.gz", gzip.compress(digits, mtime=0))
    raw("labels.idx", b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes([1, 5, 9]))
    raw("short.idx", digits[:40])


def chunk(kind, body):
    import zlib
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


ERRORS = [("truncated.jpg", "truncated JPEG"), ("truncated.png", "truncated PNG"), ("truncated.webp", "WebP: "),
          ("empty.jpg", "the file is empty"), ("text.jpg", "not an image that Sumi reads"),
          ("cmyk.jpg", "a CMYK JPEG"), ("moving.webp", "an animated WebP"), ("huge.png", "at most"),
          ("no_such.png", "No such file"), ("../images", "a folder")]


def make():
    write_files()
    lines = ["# made by tests/images/pillow.py; pixels are hashed with SHA-256"]
    lines.append("# resize H W C OUT_H OUT_W FILTER HASH (of a synthetic pattern)")
    r = random.Random(3)
    sizes = [(256, 256, 286, 286), (256, 256, 64, 64), (300, 200, 128, 128), (17, 23, 17, 51), (17, 23, 50, 23),
             (1, 1, 7, 5), (64, 1, 3, 9), (200, 3, 5, 3), (33, 47, 1, 1), (97, 31, 32, 32)]
    sizes += [tuple(r.randint(1, 120) for _ in range(4)) for _ in range(30)]
    for i, (h, w, oh, ow) in enumerate(sizes):
        for f in FILTERS:
            c = 1 + (i + (f == "bicubic")) % 4
            want = resize(image(pattern(h, w, c)), ow, oh, f)
            lines.append(f"resize {h} {w} {c} {oh} {ow} {f} {sha(pixels(want))}")
    lines.append("# decode FILE CHANNELS(0: as in the file) H W HASH")
    for name in sorted(os.listdir(HERE)):
        if not name.endswith((".jpg", ".png", ".webp")) or name in [e[0] for e in ERRORS]:
            continue
        im = native(Image.open(os.path.join(HERE, name)))
        for c in (0, 1, 3, 4):
            to = im if c == 0 else im.convert(MODES[c])
            lines.append(f"decode tests/images/{name} {c} {to.height} {to.width} {sha(pixels(to))}")
    lines.append("# error FILE part of the message")
    lines += [f"error tests/images/{n} {m}" for n, m in ERRORS]
    open(os.path.join(HERE, "golden.tsv"), "w").write("\n".join(lines) + "\n")


def run(program, path, c, h, w, name):
    words = [program, "pixels", path, str(c), str(h), str(w), name]
    return subprocess.run(words, stdout=subprocess.PIPE).stdout


def check(program, rounds=300):
    r, wrong = random.Random(1), 0
    with tempfile.TemporaryDirectory() as tmp:
        for i in range(rounds):
            h, w, oh, ow = (r.randint(1, 400) for _ in range(4))
            c, f = r.choice([1, 3, 4]), r.choice(sorted(FILTERS))
            path = os.path.join(tmp, "x.png")
            im = image(np.random.RandomState(i).randint(0, 256, (h, w, c)).astype(np.uint8))
            im.save(path)
            got = run(program, path, 0, oh, ow, f)
            if got != pixels(resize(im, ow, oh, f)):
                wrong += 1
                print(f"differs: {w}x{h}x{c} -> {ow}x{oh} {f}")
    files = []
    for folder in sys.argv[3:]:
        names = (os.path.join(d, n) for d, _, ns in os.walk(folder) for n in ns)
        files += sorted(n for n in names if n.endswith((".jpg", ".png", ".webp")))
    for path in files:
        want = resize(native(Image.open(path)).convert("RGB"), 143, 143, "bicubic")
        if run(program, path, 3, 143, 143, "bicubic") != pixels(want):
            wrong += 1
            print("differs:", path)
    print(f"{rounds + len(files) - wrong} passed, {wrong} failed")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(make() if sys.argv[1] == "make" else check(sys.argv[2]))
