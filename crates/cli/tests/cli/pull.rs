//! `pull` and `setup` without a registry.

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
