//! Certificates that an authority should not have made.
