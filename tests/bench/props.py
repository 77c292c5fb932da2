"""The GPU as cuDNN describes it: the JSON from which plans can be made where there is no GPU (tests/cudnn/*.json).

usage: props.py FILE        (cuDNN is the one that PyTorch brings, else the loader's)
"""
import ctypes
import json
import sys

DESCRIPTOR, DEVICE_ID, JSON, INT32, CHAR = 38, 2700, 2702, 23, 24    # of cudnn_graph.h


def library():
    try:
        import torch
        torch.cuda.init()
        torch.backends.cudnn.version()
    except ImportError:
        pass
    return ctypes.CDLL("libcudnn.so.9")


def main():
    dnn = library()

    dnn.cudnnGetErrorString.restype = ctypes.c_char_p

    def call(name, *args):
        status = getattr(dnn, name)(*args)
        if status:
            sys.exit("%s: %s" % (name, dnn.cudnnGetErrorString(status).decode()))

    description, device, size = ctypes.c_void_p(), ctypes.c_int32(0), ctypes.c_int64(0)
    call("cudnnBackendCreateDescriptor", DESCRIPTOR, ctypes.byref(description))
    call("cudnnBackendSetAttribute", description, DEVICE_ID, INT32, ctypes.c_int64(1), ctypes.byref(device))
    call("cudnnBackendFinalize", description)
    call("cudnnBackendGetAttribute", description, JSON, CHAR, ctypes.c_int64(0), ctypes.byref(size), None)
    text = ctypes.create_string_buffer(size.value + 1)
    call("cudnnBackendGetAttribute", description, JSON, CHAR, size, ctypes.byref(size), text)
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(json.loads(text.value), indent=1) + "\n")


if __name__ == "__main__":
    main()
