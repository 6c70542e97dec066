//! The admin endpoint, asked as a scraper asks.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::{PATIENCE, Server};

/// Where an admin endpoint is.
#[derive(Clone, Debug)]
pub(crate) enum Admin {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Admin {
    /// That of a server with `--admin=127.0.0.1:0`, as its log says.
    pub(crate) fn of(server: &Server) -> Self {
        let line = server.wait_for_stderr("admin: http://");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        Self::Tcp(address.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{line}")))
    }

    /// Asks for a page.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_as(path, "*/*").unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Asks for a page in one of these forms.
    pub(crate) fn get_as(&self, path: &str, accept: &str) -> io::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nAccept: {accept}\r\n\r\n");
        let mut answer = String::new();
        match self {
            Self::Tcp(address) => {
                let mut stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(request.as_bytes())?;
                stream.read_to_string(&mut answer)?;
            }
            Self::Unix(path) => {
                let mut stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(request.as_bytes())?;
                stream.read_to_string(&mut answer)?;
            }
        }
        let (headers, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            headers: headers.to_owned(),
            body: body.to_owned(),
        })
    }

    /// All metrics at this moment.
    pub(crate) fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics(answer.body)
    }
}

/// The text of all metrics.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The value of a sample, whose labels are written as they are in the text; the sum of all samples
    /// that begin so, where `sample` ends before its labels do.
    pub(crate) fn get(&self, sample: &str) -> u64 {
        let values =
            self.0.lines().filter_map(|line| line.strip_prefix(sample)).filter_map(|rest| {
                let next = rest.chars().next()?;
                let value = rest.rsplit(' ').next()?;
                [' ', '{', ',', '"'].contains(&next).then(|| value.parse::<f64>().ok())?
            });
        let values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "no {sample} in:\n{}", self.0);
        values.iter().sum::<f64>() as u64
    }
}
