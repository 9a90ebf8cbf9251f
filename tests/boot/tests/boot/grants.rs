//! D3 and D11: what each option of the network lets guest root reach, that metadata services stay denied whatever is
//! given, and that public addresses are reached through the host's proxy alone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

use agent_vm_boot_tests::{Finished, Machine};
use agent_vm_test_support::canary::Canary;
use anyhow::{Context as _, Result};
use serde_json::Value;

/// `t NAME CURL-ARGUMENTS…` prints the name and how curl ended: 0 reached, 6 no such name, 7 refused, 35 or 56 reset.
const TRY: &str =
    "t() { n=$1; shift; curl -sS -g -m 20 -o /dev/null \"$@\" >/dev/null 2>&1; echo \"$n $?\"; }; ";

fn run(machine: &Machine, options: &[&str], script: &str) -> Result<(Finished, Vec<Value>)> {
    let finished = machine.script(options, &format!("{TRY}{script}"));
    let finished = finished.env("TOK", "canary").run()?.expect_code(0)?;
    Ok((finished, machine.audit_log()?))
}

/// A proxy that makes no connection; what it was asked comes out of the channel.
fn refusing_proxy() -> Result<(SocketAddr, Receiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream?;
            let mut head = String::new();
            for line in BufReader::new(stream.try_clone()?).lines() {
                match line? {
                    end if end.is_empty() => break,
                    line => head += &(line + "\r\n"),
                }
            }
            stream.write_all(b"HTTP/1.1 403 Filtered\r\n\r\n")?;
            let _nobody_waits = sender.send(head);
        }
        std::io::Result::Ok(())
    });
    Ok((address, asked))
}

#[test]
fn offline_has_no_name_and_no_address_but_the_hosts_services_that_were_granted() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test"])?;
    let port = upstream.plain_address().context("plain")?.port();
    let api = format!("api.example.test:443:{}", upstream.address());
    let script = format!(
        "t granted http://host.agent-vm.internal:{port}/; \
         t loopback --resolve x.test:{port}:10.118.0.1 http://x.test:{port}/; \
         t given https://api.example.test/; \
         t name http://example.org/; \
         t address https://8.8.8.8/; \
         t address6 'https://[2001:4860:4860::8888]/'; \
         t metadata http://169.254.169.254/"
    );
    let options = ["--offline", "--allow-host", "--resolve", &api];
    let (finished, events) = run(&machine, &options, &script)?;
    assert_eq!(
        finished.stdout,
        "granted 0\nloopback 7\ngiven 6\nname 6\naddress 7\naddress6 7\nmetadata 7\n"
    );
    let of = |address: &str| events.iter().find(|event| event["address"] == address);
    let refused = of("8.8.8.8").context("8.8.8.8 is not in the log")?;
    assert_eq!(refused["reason"], "offline");
    let served = of("127.0.0.1").context("the host's service is not in the log")?;
    assert_eq!(
        (&served["rule"], &served["verdict"]),
        (&"allow-host".into(), &"tunnel".into())
    );
    Ok(())
}

#[test]
fn an_allow_list_reaches_its_hosts_and_those_with_a_credential_and_a_project_narrows_it()
-> Result<()> {
    let machine = Machine::new()?;
    let names = [
        "a.listed.test",
        "b.listed.test",
        "api.example.test",
        "other.test",
    ];
    let upstream = machine.upstream(&names)?;
    let ca = machine.upstream_ca().display().to_string();
    fs_err::copy(machine.upstream_ca(), machine.project().join("only.pem"))?;
    let given = names.map(|name| format!("{name}:443:{}", upstream.address()));
    let mut options = vec![
        "--allow-domain",
        "*.listed.test",
        "--allow-domain",
        "unknown.test",
    ];
    options.extend(given.iter().flat_map(|given| ["--resolve", given]));
    options.extend(["--secret", "TOK@api.example.test", "--upstream-ca", &ca]);
    // The guest could have written it: it takes b.listed.test away, and would give other.test.
    let narrowing = "[network]\nallow-domains = [\"a.listed.test\", \"other.test\"]\n";
    machine.write(&machine.project().join(".agent-vm.toml"), narrowing, 0o644)?;
    let script = "t listed --cacert only.pem https://a.listed.test/; \
        t credential https://api.example.test/; \
        t narrowed --cacert only.pem https://b.listed.test/; \
        t widened --cacert only.pem https://other.test/; \
        t name https://example.org/; \
        t address https://8.8.8.8/; \
        t sni --cacert only.pem --connect-to other.test:443:a.listed.test:443 https://other.test/ \
            | sed 's/35\\|56/reset/'";
    let (finished, events) = run(&machine, &options, script)?;
    assert_eq!(
        finished.stdout,
        "listed 0\ncredential 0\nnarrowed 6\nwidened 6\nname 6\naddress 7\nsni reset\n"
    );
    let refused = events
        .iter()
        .find(|event| event["host"] == "other.test" && event["kind"] == "connect");
    assert_eq!(
        refused.context("the other server name is not in the log")?["reason"],
        "not-listed"
    );
    Ok(())
}

#[test]
fn private_networks_are_reached_when_granted_public_ones_by_proxy_and_never_metadata_nor_the_host()
-> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test"])?;
    let port = upstream.plain_address().context("plain")?.port();
    let mut options = vec!["--allow-lan"];
    for network in ["0.0.0.0/0", "::/0", "169.254.0.0/16", "fd00::/8"] {
        options.extend(["--allow-egress", network]);
    }
    let script = format!(
        "t lan -m 3 http://10.77.1.1/; \
         t proxied https://8.8.8.8/; \
         t metadata http://169.254.169.254/; \
         t mapped 'http://[::ffff:169.254.169.254]/'; \
         t metadata6 'http://[fd00:ec2::254]/'; \
         ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 dev eth0; \
         t loopback http://127.0.0.1:{port}/; \
         t name http://host.agent-vm.internal:{port}/"
    );
    let login = Canary::mint("login-");
    let (proxy, asked) = refusing_proxy()?;
    let proxy = format!("http://user:{}@{proxy}", login.token());
    let script = format!("{TRY}{script}; env; cat /proc/1/environ /proc/cmdline");
    let finished = machine
        .script(&options, &script)
        .env("ALL_PROXY", &proxy)
        .run()?
        .expect_code(0)?;
    let events = machine.audit_log()?;
    let head = asked.try_recv().context("the proxy was not asked")?;
    assert!(
        head.starts_with("CONNECT 8.8.8.8:443 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nProxy-Authorization: Basic "), "{head}");
    let told = format!("{} {} {events:?}", finished.stdout, finished.stderr);
    assert!(
        !login.is_in(&told),
        "the proxy's login is in the guest or the log"
    );
    let ended: Vec<&str> = finished.stdout.lines().skip(1).collect();
    assert_eq!(ended[0], "proxied 7", "{}", finished.stdout);
    let ended = &ended[1..];
    assert_eq!(
        ended[..3],
        ["metadata 7", "mapped 7", "metadata6 7"],
        "{}",
        finished.stdout
    );
    assert!(
        ended[3] != "loopback 0" && ended[4] == "name 6",
        "{}",
        finished.stdout
    );
    assert_eq!(upstream.requests()?, Vec::<Value>::new());
    let verdict = |address: &str| {
        let found = events.iter().find(|event| event["address"] == address);
        found.map(|event| event["verdict"].clone())
    };
    // Nobody is there, but it was asked for outside.
    assert_eq!(verdict("10.77.1.1"), Some("failed".into()), "{events:?}");
    assert_eq!(verdict("8.8.8.8"), Some("failed".into()), "{events:?}");
    assert_eq!(
        verdict("169.254.169.254"),
        Some("deny".into()),
        "{events:?}"
    );
    assert_eq!(verdict("fd00:ec2::254"), Some("deny".into()), "{events:?}");
    Ok(())
}
