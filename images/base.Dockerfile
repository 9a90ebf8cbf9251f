# The base when no registry has one: base.tar is made by mmdebstrap (xtask/src/image/base.rs).
FROM scratch
ADD base.tar /
CMD ["/bin/bash"]
