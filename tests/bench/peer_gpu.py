"""The training steps of cases.lua in PyTorch on a GPU, for tests/gpu.sh: the networks are those of peer.py.

usage: peer_gpu.py CASE[:BATCH] MODE STEPS [SECONDS [DEVICE]]
MODE: eager (f32, contiguous, tf32 allowed), bf16 (channels last, bf16 autocast), compile (bf16, and
the networks by torch.compile with reduce-overhead, which are CUDA graphs). Losses stay on the device;
a step ends when the device has done it.
Prints one line: device_mb=... times=ms,ms,... torch=version
"""
import sys
import time

import torch
from torch.nn import functional as F

import peer


class Bench:
    def __init__(self, mode, device):
        self.mode, self.device = mode, device
        self.low = mode != "eager"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    def data(self, *shape):
        x = (torch.rand(*shape) * 2 - 1).to(self.device)
        return x.to(memory_format=torch.channels_last) if self.low and x.dim() == 4 else x

    def randn(self, *shape):
        return torch.randn(*shape, device=self.device)

    def net(self, net):
        net = net.to(self.device)
        if self.low:
            net = net.to(memory_format=torch.channels_last)
        net.weights = list(net.parameters())
        return net

    def compiled(self, net):
        return torch.compile(net, mode="reduce-overhead") if self.mode == "compile" else net

    def adam(self, *nets):
        parameters = [p for net in nets for p in net.weights]
        return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=self.device == "cuda")

    def cast(self):
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.low)

    def begin(self):
        if self.mode == "compile":
            torch.compiler.cudagraph_mark_step_begin()

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def bce(y, target):
    return F.binary_cross_entropy_with_logits(y.float(), torch.full_like(y, target, dtype=torch.float32))


def mse(y, target):
    return F.mse_loss(y.float(), torch.full_like(y, target, dtype=torch.float32))


def l1(a, b):
    return F.l1_loss(a.float(), b.float())


def learn(b, optimiser, others, terms):
    for net in others:
        for p in net.weights:
            p.requires_grad_(False)
    optimiser.zero_grad(set_to_none=True)
    with b.cast():
        loss = terms()
    loss.backward()
    optimiser.step()
    for net in others:
        for p in net.weights:
            p.requires_grad_(True)


def plain(b, g0, d0, real, z):
    g0, d0 = b.net(g0), b.net(d0)
    g, d, og, od = b.compiled(g0), b.compiled(d0), b.adam(g0), b.adam(d0)

    def step():
        with b.cast():
            fake = g(b.randn(z))
        learn(b, od, [g0], lambda: bce(d(real), 1.0) + bce(d(fake.detach()), 0.0))
        learn(b, og, [d0], lambda: bce(d(fake), 1.0))

    return step


def mlpgan(b, n):
    g = torch.nn.Sequential(*peer.mlp([100, 256, 512, 1024, 784]), torch.nn.Tanh())
    return plain(b, g, torch.nn.Sequential(*peer.mlp([784, 512, 256, 1])), b.data(n or 64, 784), (n or 64, 100))


def dcgan64(b, n):
    return plain(b, *peer.dcgan(), b.data(n or 64, 3, 64, 64), (n or 64, 100, 1, 1))


def pix2pix256(b, n):
    g0, d0 = b.net(peer.unet(64)), b.net(peer.patch_critic(6, 64, "batch"))
    g, d, og, od = b.compiled(g0), b.compiled(d0), b.adam(g0), b.adam(d0)
    x, y = b.data(n or 1, 3, 256, 256), b.data(n or 1, 3, 256, 256)

    def judge(z):
        return d(torch.cat((x, z.to(x.dtype)), dim=1))

    def step():
        with b.cast():
            fake = g(x)
        learn(b, od, [g0], lambda: 0.5 * (bce(judge(y), 1.0) + bce(judge(fake.detach()), 0.0)))
        learn(b, og, [d0], lambda: bce(judge(fake), 1.0) + 100 * l1(fake, y))

    return step


def cyclegan256(b, n):
    nets = [b.net(peer.resnet(64, 9)), b.net(peer.resnet(64, 9)), b.net(peer.patch_critic(3, 64, "instance")),
            b.net(peer.patch_critic(3, 64, "instance"))]
    ab, ba, da, db = [b.compiled(net) for net in nets]
    og, od = b.adam(*nets[:2]), b.adam(*nets[2:])
    x, y = b.data(n or 1, 3, 256, 256), b.data(n or 1, 3, 256, 256)

    def step():
        with b.cast():
            fy, fx = ab(x), ba(y)

        def generators():
            cycle = l1(ba(fy), x) + l1(ab(fx), y)
            same = l1(ab(y), y) + l1(ba(x), x)
            return mse(db(fy), 1.0) + mse(da(fx), 1.0) + 10 * cycle + 5 * same

        def critics():
            return 0.5 * (mse(da(x), 1.0) + mse(da(fx.detach()), 0.0) + mse(db(y), 1.0) + mse(db(fy.detach()), 0.0))

        learn(b, og, nets[2:], generators)
        learn(b, od, [], critics)

    return step


CASES = {f.__name__: f for f in (mlpgan, dcgan64, pix2pix256, cyclegan256)}


def main():
    case, mode, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 1e9
    device = sys.argv[5] if len(sys.argv) > 5 else "cuda"
    name, _, batch = case.partition(":")
    torch.manual_seed(1)
    b = Bench(mode, device)
    step = CASES[name](b, int(batch or 0))
    for _ in range(6 if mode == "compile" else 3):
        b.begin()
        step()
    b.wait()
    if device == "cuda":                # what cuDNN's search for algorithms took is not what a step holds
        torch.cuda.reset_peak_memory_stats()
    times, began = [], time.perf_counter()
    for _ in range(steps):
        t = time.perf_counter()
        b.begin()
        step()
        b.wait()
        times.append("%.4f" % (1e3 * (time.perf_counter() - t)))
        if time.perf_counter() - began > seconds:
            break
    held = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    print("device_mb=%.1f times=%s torch=%s" % (held, ",".join(times), torch.__version__))


if __name__ == "__main__":
    main()
