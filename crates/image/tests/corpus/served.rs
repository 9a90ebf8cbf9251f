//! Where the images come from: Debian's `docker-registry` as far as it takes them, else a server that gives out anything.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use agent_vm_image::ImageDigest;
use agent_vm_test_support::registry::Registry;

use crate::build::Hostile;

/// Serves `image` from `registry` if it takes it, else from a server of its own; gives the reference.
pub(crate) fn serve(registry: &Registry, name: &str, image: &Hostile) -> String {
    match push(registry, name, image) {
        Ok(()) => registry.reference(name, "1"),
        Err(_refused) => format!("{}/{name}:1", anything(name, image)),
    }
}

fn push(
    registry: &Registry,
    name: &str,
    image: &Hostile,
) -> Result<(), Box<dyn std::error::Error>> {
    // Some images have one layer thousands of times.
    let blobs: HashSet<_> = image.layers.iter().map(|layer| &layer.blob).collect();
    for blob in blobs.into_iter().chain([&image.config]) {
        registry.put_blob(name, blob)?;
    }
    let (tagged, others) = image
        .documents
        .split_last()
        .expect("an image has a document");
    for document in others {
        let digest = document.digest().to_string();
        registry.put_manifest(name, &digest, &document.media_type, &document.bytes)?;
    }
    registry.put_manifest(name, "1", &tagged.media_type, &tagged.bytes)?;
    Ok(())
}

/// What is served under which path: media type and bytes.
type Content = HashMap<String, (String, Vec<u8>)>;

/// A server without opinions; its threads end with the test's process.
fn anything(name: &str, image: &Hostile) -> SocketAddr {
    let mut content = Content::new();
    let octets = || "application/octet-stream".to_owned();
    let blobs = image.layers.iter().map(|layer| &layer.blob);
    for blob in blobs.chain([&image.config]) {
        let path = format!("/v2/{name}/blobs/{}", ImageDigest::of(blob));
        content.insert(path, (octets(), blob.clone()));
    }
    for document in &image.documents {
        let served = (document.media_type.clone(), document.bytes.clone());
        content.insert(
            format!("/v2/{name}/manifests/{}", document.digest()),
            served.clone(),
        );
        // The last one is what the tag stands for.
        content.insert(format!("/v2/{name}/manifests/1"), served);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let content = Arc::new(content);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let content = Arc::clone(&content);
            std::thread::spawn(move || answer(stream, &content));
        }
    });
    address
}

/// One request, one answer; the client may have gone before it ends.
fn answer(mut stream: TcpStream, content: &Content) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let path = lines
        .next()
        .and_then(|line| Some(line.split(' ').nth(1)?.to_owned()))
        .unwrap_or_default();
    lines.by_ref().take_while(|line| !line.is_empty()).count();
    let (status, media_type, body) = match content.get(&path) {
        Some((media_type, body)) => ("200 OK", media_type.as_str(), body.as_slice()),
        None if path == "/v2/" => ("200 OK", "application/json", &b"{}"[..]),
        None => ("404 Not Found", "application/json", &b"{}"[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _gone = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}
