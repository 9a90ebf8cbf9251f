//! B3: an image of more layers than a machine has disks is one file system in the guest, and what its layers say about each other holds.

use agent_vm_boot_tests::Machine;
use agent_vm_test_support::layered_image::MANY;
use anyhow::Result;

/// Shows everything the layers are about: kind, mode, links and content.
const SHOW: &str = r#"
cd /opt
stat -c '%F %a %n' /root /lib again kind kind-of-file opaque
cat /usr/lib/layered/in-usr /root/implied kind kind-of-file/inside
ls again opaque
[ -e gone ] || echo gone is gone
[ target -ef other-name ] && stat -c '%a %h' target other-name && cat other-name
ls many | sort -n | tr '\n' ' '
cat many/* | wc -l
grep -c overlay /proc/mounts
find / -xdev -type c | wc -l
"#;

#[test]
fn more_layers_than_disks_are_one_file_system_with_the_meaning_of_oci() -> Result<()> {
    let machine = Machine::new()?;
    let image = machine.layered_image();
    let arguments = ["run", "--image", &image, "--", "sh", "-c", SHOW];
    let finished = machine.agent_vm(&arguments).run()?.expect_code(0)?;
    // Every even one was removed by the layer above it.
    let many: Vec<_> = (0..MANY).filter(|number| number % 2 == 1).collect();
    let listed: String = many.iter().map(|number| format!("{number} ")).collect();
    let expected = format!(
        "directory 700 /root\n\
         symbolic link 777 /lib\n\
         directory 755 again\n\
         regular file 644 kind\n\
         directory 750 kind-of-file\n\
         directory 755 opaque\n\
         usrmerge\nkept\na file\ninside\n\
         again:\nnew\n\nopaque:\nnew\n\
         gone is gone\n\
         4755 2\n4755 2\nshared\n\
         {listed}{}\n\
         1\n\
         0\n",
        many.len()
    );
    assert_eq!(finished.stdout, expected, "{}", finished.stderr);
    Ok(())
}

#[test]
fn files_of_lower_layers_can_be_changed_and_removed_in_the_guest() -> Result<()> {
    let machine = Machine::new()?;
    let image = machine.layered_image();
    let script = "cd /opt && echo more >> kind-of-file/inside && cat kind-of-file/inside && rm -r many && mkdir many \
        && ls many && chmod 700 opaque && ls opaque && stat -c %a opaque && echo x > /lib/layered/y && ls /usr/lib/layered";
    let arguments = ["run", "--image", &image, "--", "sh", "-c", script];
    let finished = machine.agent_vm(&arguments).run()?.expect_code(0)?;
    assert_eq!(
        finished.stdout, "inside\nmore\nnew\n700\nin-usr\ny\n",
        "{}",
        finished.stderr
    );
    Ok(())
}
