//! Development tasks: `cargo xtask TASK`. One file per task; `cargo xtask help` lists them.
//!
//! Tasks run programs, print and exit: what the product's own code must not do is allowed here.

#![deny(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "development tasks are programs for people: they print and start other programs"
)]

mod bench;
mod boot;
mod build;
mod ci;
mod clients;
mod demo;
mod dig;
mod gateway;
mod image;
mod kvm;
mod lab;
mod netns;
mod setup;
mod shell;
mod tee;
mod tidy;
mod totals;
mod vendor;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Development tasks of agent-vm")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages the tasks need, or name them.
    Setup,
    /// Fetch and verify the pinned guest kernel, print its path.
    Vendor,
    /// Run a script in an emulated host that can run real guests.
    Lab(lab::LabArguments),
    /// Run the boot cases on a real virtual machine, here or in the emulated host.
    Boot(boot::BootArguments),
    /// Check what compilers do not: layers, forbidden dependencies, sizes, documents.
    Tidy,
    /// Everything a change must pass.
    Ci,
    /// Measure.
    Bench(bench::BenchArguments),
    /// The main job from nothing: build, image, boot, one intercepted request.
    Demo,
    /// Run a command behind the real gateway and egress, in a network namespace instead of a guest.
    Netns(netns::NetnsArguments),
    /// Run the real agent clients behind the real gateway and egress, against fakes of their services.
    Clients(clients::ClientsArguments),
    /// Install an authority as PID 1 of a guest does; for a mount namespace of `netns`.
    #[command(name = "__guest-trust", hide = true)]
    GuestTrust { pem: std::path::PathBuf },
    /// Run the bare gateway on a framed unix stream socket, for other tools' benches.
    Gateway(gateway::GatewayArguments),
    /// Ask the DNS corpus with dig behind the real gateway.
    Dig,
    /// Build, check, publish and boot the template image; make the tests' small one.
    Image(image::ImageArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup => setup::run().map(|()| ExitCode::SUCCESS),
        Task::Vendor => vendor::run().map(|()| ExitCode::SUCCESS),
        Task::Lab(arguments) => lab::run(&arguments),
        Task::Boot(arguments) => boot::run(&arguments),
        Task::Tidy => tidy::run().map(|()| ExitCode::SUCCESS),
        Task::Ci => ci::run(),
        Task::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Demo => demo::run(),
        Task::Netns(arguments) => netns::run(&arguments),
        Task::Clients(arguments) => clients::run(&arguments),
        Task::GuestTrust { pem } => netns::install_trust(&pem).map(|()| ExitCode::SUCCESS),
        Task::Gateway(arguments) => gateway::run(&arguments),
        Task::Dig => dig::run(),
        Task::Image(arguments) => image::run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
