// For a static binary with glibc alone. It resolves names by the modules that /etc/nsswitch.conf names. Those of the machine are
// made for another libc than the one in this binary, and some (mymachines, myhostname) end it at the first lookup. What a
// deploy tool needs is built in.
#include <nss.h>

__attribute__((constructor)) static void look_up_by_what_is_built_in(void) {
  __nss_configure_lookup("hosts", "files dns");
}
