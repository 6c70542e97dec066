//! Certificates of clients that stand for users.
