//! What files make which recipe, and which are refused.

use super::*;

struct Files {
    _guard: tempfile::TempDir,
    root: PathBuf,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let guard = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(guard.path()).unwrap();
        for directory in ["home/.config/agent-vm", "project"] {
            fs_err::create_dir_all(root.join(directory)).unwrap();
        }
        for (path, content) in files {
            fs_err::write(root.join(path), content).unwrap();
        }
        Self {
            _guard: guard,
            root,
        }
    }

    fn read_with(&self, options: &LaunchOptions) -> Result<SetupRequest, String> {
        let host = HostEnvironment {
            home: self.root.join("home"),
            vars: std::collections::BTreeMap::default(),
            now: std::time::SystemTime::now(),
        };
        let project = Project::exactly(&self.root.join("project")).unwrap();
        let env = EnvVars::of(&[]);
        read(options, &env, &project, project.root(), &host)
            .map_err(|error| error.error.to_string())
    }

    fn read(&self) -> Result<SetupRequest, String> {
        self.read_with(&LaunchOptions::default())
    }
}

const USER_CONFIG_PATH: &str = "home/.config/agent-vm/config.toml";

#[test]
fn nothing_is_set_up_where_nothing_says_so() {
    assert_eq!(Files::new(&[]).read(), Ok(SetupRequest::default()));
}

#[test]
fn scripts_and_packages_of_user_and_project_are_found() {
    let files = Files::new(&[
        ("home/.config/agent-vm/setup.sh", "user script"),
        (USER_CONFIG_PATH, "[setup]\npackages = [\"jq\", \"g++\"]"),
        ("project/.agent-vm.setup.sh", "project script"),
        (
            "project/.agent-vm.toml",
            "[setup]\npackages = [\"libpq-dev\"]",
        ),
        ("project/more.sh", "given script"),
    ]);
    let options = LaunchOptions {
        setup_script: vec!["more.sh".into()],
        ..LaunchOptions::default()
    };
    let setup = files.read_with(&options).unwrap();
    assert_eq!(setup.user.titles(), ["packages: jq, g++", "setup.sh"]);
    assert_eq!(setup.user.scripts[0].content, b"user script");
    assert_eq!(
        setup.project.titles(),
        ["packages: libpq-dev", ".agent-vm.setup.sh", "more.sh"]
    );
}

#[test]
fn no_setup_reads_nothing() {
    let files = Files::new(&[("project/.agent-vm.toml", "not toml at all")]);
    let options = LaunchOptions {
        no_setup: true,
        ..LaunchOptions::default()
    };
    assert_eq!(files.read_with(&options).unwrap().bases, Bases::Ignore);
    assert!(files.read().is_err());
}

#[test]
fn mounts_of_the_user_are_read_only_and_those_of_a_project_are_refused() {
    let text = "[setup]\nmounts = [\"~/tools:/mnt/tools\"]";
    let files = Files::new(&[(USER_CONFIG_PATH, text)]);
    fs_err::create_dir(files.root.join("home/tools")).unwrap();
    let setup = files.read().unwrap();
    assert_eq!(setup.user.mounts.len(), 1);
    assert_eq!(setup.user.mounts[0].host, files.root.join("home/tools"));
    assert_eq!(setup.user.mounts[0].access, ShareAccess::ReadOnly);
    let text = "[setup]\nmounts = [\"/etc:/mnt/etc\"]";
    let refused = Files::new(&[("project/.agent-vm.toml", text)]).read();
    assert!(refused.unwrap_err().contains("asks for mounts"));
    let text = "[setup]\nmounts = [\"/etc:/mnt/etc:rw\"]";
    let refused = Files::new(&[(USER_CONFIG_PATH, text)]).read();
    assert!(refused.unwrap_err().contains("read-only"));
}

#[test]
fn what_is_not_known_is_refused_and_named() {
    for (text, said) in [
        ("[setup]\npackage = []", "`setup.package` is not known"),
        ("[networks]\n", "`networks` is not known"),
        ("setup = 1", "`setup` is not known"),
        ("[setup]\npackages = \"jq\"", "`packages` must be a list"),
        ("[setup]\npackages = [1]", "`packages` must be a list"),
        ("[setup", "cannot be understood"),
    ] {
        let refused = Files::new(&[("project/.agent-vm.toml", text)]).read();
        let refused = refused.unwrap_err();
        assert!(refused.contains(said), "{text}: {refused}");
    }
}

#[test]
fn a_package_name_is_never_an_option_nor_anything_a_shell_obeys() {
    for name in [
        "jq",
        "g++",
        "libssl3:amd64",
        "jq=1.7.1-3+deb13u1",
        "a/stable",
        "0ad",
    ] {
        assert!(is_package_name(name), "{name}");
    }
    for name in [
        "", "-y", "--help", "a b", "a;b", "$(x)", "a\nb", "`x`", "*", "\u{e4}",
    ] {
        assert!(!is_package_name(name), "{name}");
        let text = format!("[setup]\npackages = [{}]", toml::Value::from(name));
        let refused = Files::new(&[("project/.agent-vm.toml", &text)]).read();
        assert!(refused.is_err(), "{name}");
    }
    assert!(!is_package_name(&"a".repeat(200)));
}

/// The guest can write the project: a link there could point at any file of the host, whose content would go into the
/// guest as a script.
#[test]
fn only_regular_files_of_a_project_are_read() {
    for name in [PROJECT_SCRIPT, PROJECT_CONFIG] {
        let files = Files::new(&[("home/secret", "private")]);
        let path = files.root.join("project").join(name);
        std::os::unix::fs::symlink(files.root.join("home/secret"), &path).unwrap();
        assert!(files.read().unwrap_err().contains("symbolic link"));
        fs_err::remove_file(&path).unwrap();
        fs_err::create_dir(&path).unwrap();
        assert!(files.read().unwrap_err().contains("directory"));
        fs_err::remove_dir(&path).unwrap();
        let fifo = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, fifo).unwrap();
        assert!(files.read().unwrap_err().contains("special file"));
        fs_err::remove_file(&path).unwrap();
        let large = "x".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1);
        fs_err::write(&path, large).unwrap();
        assert!(files.read().unwrap_err().contains("larger than"));
    }
}

#[test]
fn a_script_of_the_user_may_be_a_link() {
    let files = Files::new(&[("home/dotfile", "linked script")]);
    let path = files.root.join("home/.config/agent-vm/setup.sh");
    std::os::unix::fs::symlink(files.root.join("home/dotfile"), &path).unwrap();
    assert_eq!(
        files.read().unwrap().user.scripts[0].content,
        b"linked script"
    );
}

#[test]
fn a_given_script_must_be_there() {
    let options = LaunchOptions {
        setup_script: vec!["missing.sh".into()],
        ..LaunchOptions::default()
    };
    let refused = Files::new(&[]).read_with(&options).unwrap_err();
    assert!(refused.starts_with("cannot read /"), "{refused}");
}
