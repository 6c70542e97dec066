//! What the admin endpoint answers.

use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, VARY};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::time::{Instant, timeout_at};

use crate::metrics::Metrics;
use crate::metrics::exposition::Format;

/// How long the loops of the service may take to answer: longer than any turn of a connection, and no longer than
/// probes wait.
const STUCK: Duration = Duration::from_secs(1);

/// All that answers are made of.
pub(super) struct Answers {
    pub(super) metrics: Metrics,
}

impl Answers {
    pub(super) async fn answer(
        &self,
        request: &Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        self.metrics.admin.requests.fetch_add(1, Relaxed);
        let mut response = self.respond(request).await;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, const { hyper::http::HeaderValue::from_static("no-store") });
        Ok(response)
    }

    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        // RFC 9112, section 3.2.
        let hosts = request.headers().get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
            return text(StatusCode::BAD_REQUEST, "one Host header, please");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD, please");
            let allow = const { hyper::http::HeaderValue::from_static("GET, HEAD") };
            response.headers_mut().insert(ALLOW, allow);
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers()),
            "/healthz" => match self.is_alive().await {
                true => text(StatusCode::OK, "ok"),
                false => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "stuck: a loop of the service does not answer",
                ),
            },
            "/readyz" => match self.metrics.readiness.check(&self.metrics.service) {
                Ok(()) => text(StatusCode::OK, "ready"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::negotiated(&accept.collect::<Vec<_>>().join(","));
        let mut response = Response::new(self.metrics.expose(format).into());
        let content_type = hyper::http::HeaderValue::from_static(format.content_type());
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        let vary = const { hyper::http::HeaderValue::from_static("accept") };
        response.headers_mut().insert(VARY, vary);
        response
    }

    /// Whether every loop of the service still turns.
    async fn is_alive(&self) -> bool {
        timeout_at(Instant::now() + STUCK, self.metrics.service.ping()).await.is_ok()
    }
}

/// A line.
fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(format!("{line}\n").into());
    *response.status_mut() = status;
    let content_type = const { hyper::http::HeaderValue::from_static("text/plain; charset=utf-8") };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
