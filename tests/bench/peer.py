"""The training steps of cases.lua in PyTorch, for `sumi bench`.

usage: peer.py CASE MODE STEPS [SECONDS]     MODE: f32, or cl (channels last)
Prints one line: peak_mb=... times=ms,ms,... torch=version
"""
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(1)
if __name__ == "__main__" and len(sys.argv) > 5:
    torch.set_num_threads(int(sys.argv[5]))


def norm_of(kind):
    return nn.InstanceNorm2d if kind == "instance" else nn.BatchNorm2d


def mlp(sizes):
    parts = []
    for a, b in zip(sizes, sizes[1:]):
        parts += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    return parts[:-1]


def conv_block(a, b, k, s, p, kind, act, bias=True, mirror=False):
    parts = [nn.ReflectionPad2d(p)] if mirror else []
    parts += [nn.Conv2d(a, b, k, s, 0 if mirror else p, bias=bias), norm_of(kind)(b)]
    return parts + ([act] if act else [])


def up_block(a, b, k, s, p, out, kind, act, bias=True):
    return [nn.ConvTranspose2d(a, b, k, s, p, out, bias=bias), norm_of(kind)(b), act]


class Plus(nn.Module):
    """x + f(x)"""

    def __init__(self, *parts):
        super().__init__()
        self.f = nn.Sequential(*parts)

    def forward(self, x):
        return x + self.f(x)


class Beside(nn.Module):
    """x joined with f(x) along the channels"""

    def __init__(self, *parts):
        super().__init__()
        self.f = nn.Sequential(*parts)

    def forward(self, x):
        return torch.cat((x, self.f(x)), dim=1)


def resnet(width, blocks):
    r, w = nn.ReLU(inplace=True), width
    parts = conv_block(3, w, 7, 1, 3, "instance", r, mirror=True)
    parts += conv_block(w, 2 * w, 3, 2, 1, "instance", r) + conv_block(2 * w, 4 * w, 3, 2, 1, "instance", r)
    for _ in range(blocks):
        parts.append(Plus(*conv_block(4 * w, 4 * w, 3, 1, 1, "instance", r, mirror=True),
                          *conv_block(4 * w, 4 * w, 3, 1, 1, "instance", None, mirror=True)))
    parts += up_block(4 * w, 2 * w, 3, 2, 1, 1, "instance", r) + up_block(2 * w, w, 3, 2, 1, 1, "instance", r)
    return nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh())


def patch_critic(channels, w, kind):
    leak = nn.LeakyReLU(0.2, inplace=True)
    parts = [nn.Conv2d(channels, w, 4, 2, 1), leak]
    for a, b, s in ((w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 1)):
        parts += conv_block(a, b, 4, s, 1, kind, leak)
    return nn.Sequential(*parts, nn.Conv2d(8 * w, 1, 4, 1, 1))


def unet(w):
    widths = [w, 2 * w, 4 * w, 8 * w, 8 * w, 8 * w, 8 * w, 8 * w]        # what each way down makes, outermost first
    body = None
    for depth in range(7, 0, -1):
        outer, inner = widths[depth - 1], widths[depth]
        parts = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1)]
        if body is not None:
            parts += [nn.BatchNorm2d(inner), body]
        parts += up_block(inner if body is None else 2 * inner, outer, 4, 2, 1, 0, "batch", nn.Identity())
        parts.insert(len(parts) - 3, nn.ReLU())
        if 4 <= depth <= 6:
            parts.append(nn.Dropout(0.5))
        body = Beside(*parts)
    return nn.Sequential(nn.Conv2d(3, w, 4, 2, 1), body, nn.ReLU(), nn.ConvTranspose2d(2 * w, 3, 4, 2, 1), nn.Tanh())


def dcgan(w=64, z=100):
    relu, leak = nn.ReLU(inplace=True), nn.LeakyReLU(0.2, inplace=True)
    g, d, a = [], [nn.Conv2d(3, w, 4, 2, 1, bias=False), leak], z
    for b, s, p in ((8 * w, 1, 0), (4 * w, 2, 1), (2 * w, 2, 1), (w, 2, 1)):
        g += up_block(a, b, 4, s, p, 0, "batch", relu, bias=False)
        a = b
    for b in (2 * w, 4 * w, 8 * w):
        d += conv_block(b // 2, b, 4, 2, 1, "batch", leak, bias=False)
    return (nn.Sequential(*g, nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False), nn.Tanh()),
            nn.Sequential(*d, nn.Conv2d(8 * w, 1, 4, 1, 0, bias=False)))


def learn(optimiser, others, terms):
    """One player's turn: the others' weights are not asked for gradients. terms yields losses to be summed."""
    for net in others:
        net.requires_grad_(False)
    optimiser.zero_grad(set_to_none=True)
    loss = terms()
    loss.backward()
    optimiser.step()
    for net in others:
        net.requires_grad_(True)
    return float(loss.detach())


def bce(y, target):
    return F.binary_cross_entropy_with_logits(y, torch.full_like(y, target))


def mse(y, target):
    return F.mse_loss(y, torch.full_like(y, target))


def adam(*nets):
    return torch.optim.Adam([p for net in nets for p in net.parameters()], lr=2e-4, betas=(0.5, 0.999), foreach=True)


def noise(*shape):
    return torch.rand(*shape) * 2 - 1


def plain_game(g, d, real, z, ready):
    g, d, real = ready(g), ready(d), ready(real)
    og, od = adam(g), adam(d)

    def step():
        fake = g(torch.randn(z))
        total = learn(od, [g], lambda: bce(d(real), 1.0) + bce(d(fake.detach()), 0.0))
        return total + learn(og, [d], lambda: bce(d(fake), 1.0))

    return step


def mlpgan(ready):
    g = nn.Sequential(*mlp([100, 256, 512, 1024, 784]), nn.Tanh())
    return plain_game(g, nn.Sequential(*mlp([784, 512, 256, 1])), noise(64, 784), (64, 100), ready)


def dcgan64(ready):
    return plain_game(*dcgan(), noise(64, 3, 64, 64), (64, 100, 1, 1), ready)


def pix2pix256(ready):
    g, d = ready(unet(64)), ready(patch_critic(6, 64, "batch"))
    a, b = ready(noise(1, 3, 256, 256)), ready(noise(1, 3, 256, 256))
    og, od = adam(g), adam(d)

    def judge(y):
        return d(torch.cat((a, y), dim=1))

    def step():
        fake = g(a)
        total = learn(od, [g], lambda: 0.5 * (bce(judge(b), 1.0) + bce(judge(fake.detach()), 0.0)))
        return total + learn(og, [d], lambda: bce(judge(fake), 1.0) + 100 * F.l1_loss(fake, b))

    return step


def cyclegan128(ready):
    ab, ba = ready(resnet(64, 9)), ready(resnet(64, 9))
    da, db = ready(patch_critic(3, 64, "instance")), ready(patch_critic(3, 64, "instance"))
    a, b = ready(noise(1, 3, 128, 128)), ready(noise(1, 3, 128, 128))
    og, od = adam(ab, ba), adam(da, db)

    def step():
        fb, fa = ab(a), ba(b)

        def generators():
            cycle = F.l1_loss(ba(fb), a) + F.l1_loss(ab(fa), b)
            same = F.l1_loss(ab(b), b) + F.l1_loss(ba(a), a)
            return mse(db(fb), 1.0) + mse(da(fa), 1.0) + 10 * cycle + 5 * same

        def critics():
            return 0.5 * (mse(da(a), 1.0) + mse(da(fa.detach()), 0.0) + mse(db(b), 1.0) + mse(db(fb.detach()), 0.0))

        return learn(og, [da, db], generators) + learn(od, [], critics)

    return step


def peak_mb():
    """Most memory this program held; getrusage would count what the parent held when it forked."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main():
    case, mode, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 1e9

    def ready(x):
        images = isinstance(x, nn.Module) or x.dim() == 4
        return x.to(memory_format=torch.channels_last) if mode == "cl" and images else x

    step = {f.__name__: f for f in (mlpgan, dcgan64, pix2pix256, cyclegan128)}[case](ready)
    step()
    step()
    times, began = [], time.perf_counter()
    for _ in range(steps):
        t = time.perf_counter()
        step()
        times.append("%.4f" % (1e3 * (time.perf_counter() - t)))
        if time.perf_counter() - began > seconds:
            break
    print("peak_mb=%.1f times=%s torch=%s" % (peak_mb(), ",".join(times), torch.__version__))


if __name__ == "__main__":
    main()
