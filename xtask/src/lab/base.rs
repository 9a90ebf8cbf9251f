//! The parts of the emulated host that are the same for every run: kernel, first stage and userland disk. Made once
//! per checkout under `target/lab` and again when the recipe changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::modules;
use crate::{setup, shell};

/// What the emulated host's userland has beyond Debian's essential packages.
const PACKAGES: &[&str] = &[
    "attr",
    "ca-certificates",
    "curl",
    "docker-registry",
    "e2fsprogs",
    "erofs-utils",
    "iproute2",
    "kmod",
    "mount",
    "procps",
    "strace",
    "sudo",
];

/// The size of the userland disk: room for stores, guest disks and a home.
const DISK_SIZE: &str = "16G";

const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

const FIRST_STAGE: &str = include_str!("initramfs.sh");

/// Makes the userland's file system from its archive: $1 archive, $2 modules, $3 work directory, $4 disk, $5 size.
const ASSEMBLE: &str = r#"set -eu
root=$3/root
mkdir "$root"
tar -C "$root" -xf "$1"
mkdir -p "$root/lib/modules" "$root/out"
cp -r "$2" "$root/lib/modules/"
echo 'kvm:x:104:user' >>"$root/etc/group"
echo 'user:x:1000:' >>"$root/etc/group"
echo 'user:x:1000:1000::/home/user:/bin/bash' >>"$root/etc/passwd"
echo 'user:*:19000:0:99999:7:::' >>"$root/etc/shadow"
echo 'user ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/user"
chmod 440 "$root/etc/sudoers.d/user"
echo lab >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 lab\n' >"$root/etc/hosts"
echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
mkdir -p "$root/home/user"
cp -r "$root/etc/skel/." "$root/home/user/"
chown -R 1000:1000 "$root/home/user"
chmod 755 "$root/home/user"
ln -s usr/local/lab/files "$root/files"
mke2fs -q -F -t ext4 -O ^has_journal -E lazy_itable_init=1,nodiscard -m 0 -d "$root" "$4" "$5"
"#;

/// Files every emulated host boots from.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disk: PathBuf,
}

/// Makes what is missing; several callers at once wait for each other.
///
/// # Errors
/// When a package cannot be fetched or a tool fails.
pub(crate) fn prepare(cache: &Path) -> Result<Base> {
    let lock = fs_err::File::create(cache.join("lock"))?;
    lock.file().lock().context("cannot lock the lab's cache")?;
    let kernel = kernel(cache)?;
    Ok(Base {
        initramfs: initramfs(cache, &kernel)?,
        disk: userland(cache, &kernel)?,
        kernel: kernel.image,
    })
}

/// The unpacked kernel package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn kernel(cache: &Path) -> Result<Kernel> {
    let directory = cache.join("kernel");
    if !directory.join("complete").exists() {
        let _old = fs_err::remove_dir_all(&directory);
        fs_err::create_dir_all(&directory)?;
        eprintln!("lab: fetching the emulated host's kernel");
        let package = kernel_package()?;
        shell::output(
            setup::apt_get()
                .current_dir(&directory)
                .args(["download", &package]),
        )?;
        let archive = only_entry(&directory, ".deb")?;
        shell::run(shell::tool("dpkg").arg("-x").arg(&archive).arg(&directory))?;
        fs_err::remove_file(archive)?;
        let modules = only_entry(&directory.join("lib/modules"), "")?;
        let version = modules
            .file_name()
            .context("a module directory has a name")?;
        shell::run(shell::tool("depmod").arg("-b").arg(&directory).arg(version))?;
        fs_err::write(directory.join("complete"), package)?;
    }
    let boot = directory.join("boot");
    let image = fs_err::read_dir(&boot)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        });
    Ok(Kernel {
        image: image.context("the kernel package holds no kernel")?,
        modules: only_entry(&directory.join("lib/modules"), "")?,
    })
}

fn kernel_package() -> Result<String> {
    let ask = || shell::output(Command::new("apt-cache").args(["depends", KERNEL_META_PACKAGE]));
    let find = |printed: &str| {
        let dependency = printed
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        dependency
            .filter(|name| name.starts_with("linux-image-"))
            .map(str::to_owned)
            .next()
    };
    if let Some(package) = ask().ok().as_deref().and_then(find) {
        return Ok(package);
    }
    shell::output(setup::apt_get().arg("update"))?;
    find(&ask()?).context("apt knows no cloud kernel")
}

fn only_entry(directory: &Path, suffix: &str) -> Result<PathBuf> {
    fs_err::read_dir(directory)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().ends_with(suffix))
        .with_context(|| format!("{} holds nothing with {suffix:?}", directory.display()))
}

fn initramfs(cache: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let read = |name: &str| fs_err::read_to_string(kernel.modules.join(name));
    let order = modules::load_order(
        &read("modules.dep")?,
        &read("modules.builtin")?,
        modules::WANTED,
    )?;
    let recipe = format!(
        "{}\n{}\n{FIRST_STAGE}",
        kernel.modules.display(),
        order.join("\n")
    );
    let archive = cache.join("initramfs.cpio");
    cached(&archive, &recipe, |made| {
        let scratch = tempfile::tempdir_in(cache)?;
        let root = scratch.path().join("root");
        for name in ["bin", "dev", "modules", "root"] {
            fs_err::create_dir_all(root.join(name))?;
        }
        fs_err::copy("/bin/busybox", root.join("bin/busybox"))?;
        let mut names = String::new();
        for path in &order {
            let name = path.rsplit('/').next().unwrap_or(path);
            fs_err::copy(kernel.modules.join(path), root.join("modules").join(name))?;
            names.push_str(name);
            names.push('\n');
        }
        fs_err::write(root.join("modules/order"), names)?;
        fs_err::write(root.join("init"), FIRST_STAGE)?;
        let pack =
            r#"chmod +x init && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 >"$1""#;
        let mut command = Command::new("sh");
        command
            .current_dir(&root)
            .args(["-c", pack, "sh"])
            .arg(made);
        shell::run(&mut command)
    })?;
    Ok(archive)
}

fn userland(cache: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let release = fs_err::read_to_string("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    // The same release as here: what is built here must find its C library there.
    let suite = suite.context("/etc/os-release names no release")?;
    let archive = cache.join("userland.tar");
    let packages = PACKAGES.join(",");
    cached(&archive, &format!("{suite} {packages}"), |made| {
        eprintln!("lab: making the emulated host's userland");
        let mut command = shell::tool("mmdebstrap");
        command
            .args(["--quiet", "--variant=essential", "--format=tar"])
            .arg(format!(
                "--aptopt=Acquire::Retries \"{}\"",
                setup::DOWNLOAD_TRIES
            ))
            .arg(format!("--include={packages}"))
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
            ])
            .args(["--dpkgopt=path-exclude=/usr/share/locale/*", suite])
            .arg(made);
        shell::output(&mut command).map(drop)
    })?;
    let disk = cache.join("userland.ext4");
    let recipe = format!(
        "{suite} {packages} {} {DISK_SIZE}\n{ASSEMBLE}",
        kernel.modules.display()
    );
    cached(&disk, &recipe, |made| {
        let scratch = tempfile::tempdir_in(cache)?;
        // Owners matter on that disk; without being root they are pretended.
        let mut command = shell::tool(if setup::is_root() { "env" } else { "fakeroot" });
        command
            .args([
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "sh",
                "-c",
                ASSEMBLE,
                "sh",
            ])
            .arg(&archive)
            .arg(&kernel.modules)
            .args([scratch.path(), made])
            .arg(DISK_SIZE);
        shell::output(&mut command).map(drop)
    })?;
    Ok(disk)
}

/// Makes `file` unless it was made by the same recipe. It appears whole or not at all.
fn cached(file: &Path, recipe: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let beside = |suffix: &str| PathBuf::from(format!("{}.{suffix}", file.display()));
    let recipe_file = beside("recipe");
    if file.exists() && fs_err::read_to_string(&recipe_file).is_ok_and(|made_by| made_by == recipe)
    {
        return Ok(());
    }
    let part = beside("part");
    let _old = fs_err::remove_file(&part);
    make(&part)?;
    let _old = fs_err::remove_file(&recipe_file);
    fs_err::rename(&part, file)?;
    fs_err::write(recipe_file, recipe)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_file_again_only_when_its_recipe_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk.ext4");
        let made = std::cell::Cell::new(0);
        let make = |recipe: &str| {
            cached(&file, recipe, |part| {
                made.set(made.get() + 1);
                Ok(fs_err::write(part, recipe)?)
            })
        };
        make("a").unwrap();
        make("a").unwrap();
        assert_eq!(made.get(), 1);
        make("b").unwrap();
        assert_eq!(fs_err::read_to_string(&file).unwrap(), "b");
        assert!(cached(&file, "c", |_part| anyhow::bail!("no")).is_err());
        assert_eq!(fs_err::read_to_string(&file).unwrap(), "b");
    }
}
