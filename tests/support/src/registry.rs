//! A real image registry on a free loopback port: Debian's `docker-registry` with a directory of its own. Images are
//! put there by the distribution HTTP API, as any client would (OCI distribution-spec, "Pushing blobs", "Pushing
//! manifests").

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

/// How long the registry may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Where its access log is, beside its data.
const ACCESS_LOG: &str = "access.log";
/// By which slow machines stretch timeouts.
const SCALE_VARIABLE: &str = "AGENT_VM_TIMEOUT_SCALE";

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    client: RegistryClient,
    directory: tempfile::TempDir,
}

impl Registry {
    /// Starts an empty registry and waits until it listens.
    ///
    /// # Errors
    /// When `docker-registry` is not installed, or ends or stays silent instead of listening.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config.yml");
        fs_err::write(&config, configuration(&directory.path().join("data")))?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(fs_err::File::create(directory.path().join(ACCESS_LOG))?.into_file())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start docker-registry (`cargo xtask setup` installs it)")?;
        let log = child.stderr.take().expect("the standard error is a pipe");
        match wait_for_address(log) {
            Ok(address) => Ok(Self {
                child,
                client: RegistryClient::at(address),
                directory,
            }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Where it listens, by plain HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.client.address
    }

    /// The reference by which a client names an image here.
    #[must_use]
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.address())
    }

    /// The directory it stores in.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Bytes of all the bodies it has answered GET requests with so far, by its own access log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn sent(&self) -> Result<u64> {
        let log = fs_err::read_to_string(self.directory.path().join(ACCESS_LOG))?;
        Ok(log.lines().filter_map(sent_by_line).sum())
    }

    /// For requests to it.
    #[must_use]
    pub fn client(&self) -> &RegistryClient {
        &self.client
    }

    /// As [`RegistryClient::put_blob`].
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn put_blob(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.client.put_blob(name, bytes)
    }

    /// As [`RegistryClient::put_manifest`].
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<String> {
        self.client.put_manifest(name, reference, media_type, bytes)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Puts images into a registry that speaks plain HTTP.
#[derive(Debug, Clone, Copy)]
pub struct RegistryClient {
    address: SocketAddr,
}

impl RegistryClient {
    /// A client of the registry at `address`.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Uploads a blob to repository `name` and gives its digest.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn put_blob(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let digest = crate::image_tree::digest(bytes);
        let started = self.request(
            Method::POST,
            &format!("/v2/{name}/blobs/uploads/"),
            None,
            &[],
        )?;
        ensure!(
            started.status == StatusCode::ACCEPTED,
            "upload refused: {started:?}"
        );
        let location = started
            .headers
            .get(LOCATION)
            .context("the registry gave no upload address")?;
        let location: Uri = location.to_str()?.parse()?;
        let path = location
            .path_and_query()
            .context("the upload address has no path")?;
        let joint = if path.query().is_some() { '&' } else { '?' };
        let put = self.request(
            Method::PUT,
            &format!("{path}{joint}digest={digest}"),
            Some("application/octet-stream"),
            bytes,
        )?;
        ensure!(put.status == StatusCode::CREATED, "blob refused: {put:?}");
        Ok(digest)
    }

    /// Uploads a manifest or index to repository `name` under `reference` (a tag or digest) and gives its digest.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<String> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let put = self.request(Method::PUT, &path, Some(media_type), bytes)?;
        ensure!(
            put.status == StatusCode::CREATED,
            "manifest refused: {put:?}"
        );
        Ok(crate::image_tree::digest(bytes))
    }

    /// Sends one request on a connection of its own.
    fn request(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string());
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body)))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(exchange(self.address, request))
    }
}

/// What the registry answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    #[allow(dead_code, reason = "shown when a request is refused")]
    body: String,
}

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn configuration(data: &Path) -> String {
    format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    \
         rootdirectory: {data}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:0\n",
        data = serde_json::Value::from(data.to_string_lossy())
    )
}

/// Reads the log until it says where the registry listens; a thread goes on reading, so the pipe never fills.
fn wait_for_address(log: ChildStderr) -> Result<SocketAddr> {
    let (found, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            match listening_address(&line) {
                Some(address) => drop(found.send(Ok(address))),
                None if said.len() < 4096 => said.push_str(&line),
                None => {}
            }
        }
        drop(found.send(Err(said)));
    });
    match address.recv_timeout(START_TIMEOUT * timeout_scale()) {
        Ok(Ok(address)) => Ok(address),
        Ok(Err(said)) => bail!("docker-registry ended: {said}"),
        Err(_timeout) => bail!("docker-registry does not listen after {START_TIMEOUT:?}"),
    }
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ':'))
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The bytes a line of the access log (NCSA combined format) tells of: `… "GET PATH HTTP/1.1" STATUS BYTES …`.
fn sent_by_line(line: &str) -> Option<u64> {
    let (_, request) = line.split_once("\"GET ")?;
    let (_, rest) = request.split_once("\" ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

fn timeout_scale() -> u32 {
    let scale = std::env::var(SCALE_VARIABLE).ok();
    scale.and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

fn end(child: &mut Child) {
    let _gone = child.kill();
    let _status = child.wait();
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn reads_the_address_from_the_log() {
        let line = r#"time="2026-11-21T06:00:00Z" level=info msg="listening on 127.0.0.1:40123" go.version=go1.19"#;
        assert_eq!(
            listening_address(line),
            Some("127.0.0.1:40123".parse().unwrap())
        );
        assert_eq!(listening_address("level=info msg=started"), None);
    }

    #[test]
    fn stores_blobs_and_manifests_as_pushed() {
        let registry = Registry::start().unwrap();
        let digest = registry.put_blob("some/image", b"hello").unwrap();
        assert_eq!(
            digest,
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        let blob = registry
            .client
            .request(
                Method::GET,
                &format!("/v2/some/image/blobs/{digest}"),
                None,
                &[],
            )
            .unwrap();
        assert_eq!((blob.status, blob.body.as_str()), (StatusCode::OK, "hello"));
        let refused = registry.put_manifest("some/image", "1", "text/plain", b"{}");
        assert!(refused.is_err(), "{refused:?}");
    }

    #[test]
    fn access_log_tells_what_was_sent() {
        let line = r#"127.0.0.1 - - [21/Nov/2026:09:00:00 +0000] "GET /v2/a/blobs/sha256:aa HTTP/1.1" 200 517 "" "agent-vm/0.1.0""#;
        assert_eq!(sent_by_line(line), Some(517));
        assert_eq!(sent_by_line(&line.replace("GET", "PUT")), None);
        let registry = Registry::start().unwrap();
        let digest = registry.put_blob("a", &[7; 12_345]).unwrap();
        let before = registry.sent().unwrap();
        let path = format!("/v2/a/blobs/{digest}");
        registry
            .client
            .request(Method::GET, &path, None, &[])
            .unwrap();
        // The line is written after the answer.
        let deadline = Instant::now() + Duration::from_secs(10);
        while registry.sent().unwrap() == before && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(registry.sent().unwrap() - before, 12_345);
    }

    #[test]
    fn ends_when_dropped() {
        let registry = Registry::start().unwrap();
        let address = registry.address();
        drop(registry);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
