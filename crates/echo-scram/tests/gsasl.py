"""One side of an exchange by libgsasl: lines of base64 on stdin and stdout.

usage: gsasl.py client|server MECHANISM USER PASSWORD TLS-EXPORTER(base64, or -)
Ends with 0 when the exchange has succeeded, with gsasl's own code when it has not.
"""

import ctypes
import sys

AUTHID, PASSWORD, SCRAM_ITER, CB_TLS_EXPORTER = 1, 3, 15, 25
OK, NEEDS_MORE = 0, 1

side, mechanism, user, password, exporter = sys.argv[1:]
gsasl = ctypes.CDLL("libgsasl.so.18")
context, session = ctypes.c_void_p(), ctypes.c_void_p()
assert gsasl.gsasl_init(ctypes.byref(context)) == OK
start = gsasl.gsasl_client_start if side == "client" else gsasl.gsasl_server_start
code = start(context, mechanism.encode(), ctypes.byref(session))
if code != OK:
    sys.exit(code)
properties = [(PASSWORD, password), (SCRAM_ITER, "4096")]
if side == "client":
    properties.append((AUTHID, user))
if exporter != "-":
    properties.append((CB_TLS_EXPORTER, exporter))
for name, value in properties:
    gsasl.gsasl_property_set(session, name, value.encode())

said = b"" if side == "client" else sys.stdin.buffer.readline().strip()
while True:
    answer = ctypes.c_char_p()
    code = gsasl.gsasl_step64(session, said, ctypes.byref(answer))
    if code not in (OK, NEEDS_MORE):
        sys.exit(code)
    if answer.value:
        sys.stdout.buffer.write(answer.value + b"\n")
        sys.stdout.buffer.flush()
    if code == OK:
        sys.exit(0)
    said = sys.stdin.buffer.readline().strip()
    if not said:
        sys.exit(255)
