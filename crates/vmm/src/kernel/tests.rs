//! Libraries made by hand.

use super::*;

#[test]
fn constants_come_from_the_three_stores_only() {
    let mut code = vec![0x55, 0x48, 0x89, 0xe5];
    for value in [0x100_0000_u32, 0x100_0123, 0x149_0000] {
        code.extend([0x48, 0x8b, 0x45, 0xf8, 0x48, 0xc7, 0x00]);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x5d, 0xc3]);
    assert_eq!(
        stored_constants(&code),
        Some([0x100_0000, 0x100_0123, 0x149_0000])
    );
    assert_eq!(stored_constants(&code[..30]), None);
    assert_eq!(stored_constants(&[]), None);
}
