"""One side of a SASL exchange by GNU SASL: a message in base64 a line, in and out; then how it ended."""

import ctypes
import sys

OK, NEEDS_MORE = 0, 1
AUTHID, PASSWORD, CB_TLS_EXPORTER = 1, 3, 25

side, mechanism, name, password, exported = (word.encode() for word in sys.argv[1:6])
lib = ctypes.CDLL("libgsasl.so.18")
lib.gsasl_strerror_name.restype = ctypes.c_char_p

context, session = ctypes.c_void_p(), ctypes.c_void_p()


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
def ask(_context, session, wanted):
    known = {AUTHID: name, PASSWORD: password}
    if exported:
        known[CB_TLS_EXPORTER] = exported
    if wanted not in known:
        return 51  # GSASL_NO_CALLBACK
    return lib.gsasl_property_set(ctypes.c_void_p(session), wanted, known[wanted])


assert lib.gsasl_init(ctypes.byref(context)) == OK
lib.gsasl_callback_set(context, ask)
start = lib.gsasl_client_start if side == b"client" else lib.gsasl_server_start
assert start(context, mechanism, ctypes.byref(session)) == OK

said = b""
if side == b"server":
    said = sys.stdin.buffer.readline().strip()
while True:
    out = ctypes.c_void_p()
    status = lib.gsasl_step64(session, said, ctypes.byref(out))
    if status in (OK, NEEDS_MORE):
        sys.stdout.buffer.write(b"> " + (ctypes.string_at(out) if out.value else b"") + b"\n")
    if status != NEEDS_MORE:
        sys.stdout.buffer.write(b"= " + lib.gsasl_strerror_name(status) + b"\n")
        break
    sys.stdout.buffer.flush()
    said = sys.stdin.buffer.readline().strip()
