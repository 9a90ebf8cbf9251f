//! `pull` and `setup` without a registry.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use crate::environment::Environment;

#[test]
fn registry_that_does_not_answer_is_named() {
    let finished = Environment::new().run(&["pull", "127.0.0.1:1/some/image"]);
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (Some(125), ""),
        "{finished:?}"
    );
    let expected = "pulling 127.0.0.1:1/some/image:latest\n\
         error: cannot get image 127.0.0.1:1/some/image:latest\n";
    assert!(finished.stderr.starts_with(expected), "{finished:?}");
    assert!(
        finished
            .stderr
            .contains("\nhint: is the name right, and the registry reachable?"),
        "{finished:?}"
    );
}

#[test]
fn bad_reference_is_refused_before_anything() {
    let environment = Environment::new();
    let finished = environment.run(&["pull", "a b"]);
    assert_eq!(finished.code, Some(125));
    assert!(
        finished
            .stderr
            .ends_with("hint: an image is named as [REGISTRY/]NAME[:TAG][@sha256:DIGEST]\n"),
        "{finished:?}"
    );
    assert_eq!(
        fs_err::read_dir(environment.path("home")).unwrap().count(),
        0
    );
}

#[test]
fn setup_checks_the_machine_before_it_pulls() {
    let mut environment = Environment::new();
    environment.set("AGENT_VM_KERNEL", "/nonexistent/kernel");
    environment.run(&["setup", "127.0.0.1:1/some/image"]).refused(
        "error: the guest kernel /nonexistent/kernel named by AGENT_VM_KERNEL does not exist\n\n\
         hint: let AGENT_VM_KERNEL name a libkrunfw shared object, or unset it\n",
    );
}

fn part(stream: &mut TcpStream, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Answers as a SOCKS5 server that wants a login and reaches nothing; tells what it was asked for (RFC 1928, RFC 1929).
fn refuse_as_socks5(
    listener: &TcpListener,
    asked: &Sender<(Vec<u8>, Vec<u8>)>,
) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let methods = part(&mut stream, 2)?[1];
    part(&mut stream, methods.into())?;
    stream.write_all(&[5, 2])?;
    let user = part(&mut stream, 2)?[1];
    let mut login = part(&mut stream, user.into())?;
    let password = part(&mut stream, 1)?[0];
    login.extend(part(&mut stream, password.into())?);
    stream.write_all(&[1, 0])?;
    let length = part(&mut stream, 5)?[4];
    let name = part(&mut stream, length.into())?;
    let _told = asked.send((login, name));
    stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0])
}

#[test]
fn pulls_go_through_the_proxy_that_stands_for_all() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = channel();
    std::thread::spawn(move || while refuse_as_socks5(&listener, &sender).is_ok() {});
    let mut environment = Environment::new();
    let url = format!("socks5h://the-user:the%20password@{address}");
    environment.set("all_proxy", &url);
    let finished = environment.run(&["pull", "registry.example.test/some/image"]);
    assert_eq!(finished.code, Some(125), "{finished:?}");
    let (login, name) = asked.try_recv().unwrap();
    assert_eq!(login, b"the-userthe password");
    assert_eq!(name, b"registry.example.test");
    assert!(!finished.stderr.contains("the-user"), "{finished:?}");
    assert!(!finished.stderr.contains("password"), "{finished:?}");
}
