#!/bin/sh
# Makes blank-v1.ext4.extents.zst, the embedded empty file system of crates/image/src/disk.rs. Same tools, same bytes.
# Needs mke2fs (e2fsprogs >= 1.47), python3, zstd. Run when the format is to change, and give the file a new version in its name.
#
# 1 GiB, 4 KiB blocks. resize_inode with room for 1 TiB and 64bit: grows while mounted. No tables are initialised here and none in the
# guest's first seconds either (lazy_itable_init, lazy_journal_init): what is not written stays a hole. One fixed UUID and hash seed: a
# guest sees one such disk only.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
image=$(mktemp)
trap 'rm -f "$image" "$image.extents"' EXIT
truncate -s 1G "$image"
E2FSPROGS_FAKE_TIME=1790000000 mke2fs -q -F -t ext4 -b 4096 -m 0 -I 256 -i 32768 -J size=64 -L agent-vm \
  -O 64bit,metadata_csum,resize_inode,has_journal -U 6167656e-742d-766d-2d62-6c616e6b2d31 \
  -E "resize=268435456,lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed=6167656e-742d-766d-2d62-6c616e6b2d31" \
  "$image" 2>/dev/null || exit 1
python3 - "$image" "$image.extents" <<'PY'
import struct, sys
data = open(sys.argv[1], "rb")
extents, offset, block = [], 0, 4096
while piece := data.read(block):
    if any(piece):
        if extents and extents[-1][0] + len(extents[-1][1]) == offset:
            extents[-1][1].extend(piece)
        else:
            extents.append((offset, bytearray(piece)))
    offset += block
with open(sys.argv[2], "wb") as out:
    out.write(struct.pack("<Q", len(extents)))
    for at, piece in extents:
        out.write(struct.pack("<QQ", at, len(piece)))
    for _, piece in extents:
        out.write(piece)
print(len(extents), "extents,", sum(len(p) for _, p in extents), "bytes")
PY
zstd -q -f -19 "$image.extents" -o "$here/blank-v1.ext4.extents.zst"
ls -l "$here/blank-v1.ext4.extents.zst"
