# Serves public/ at PORT with whatever this host has.
set -eu
for program in node python3 busybox perl; do
  command -v "$program" > /dev/null 2>&1 || continue
  case $program in
    node) exec node server.js ;;
    python3) exec python3 -m http.server --bind 127.0.0.1 --directory public "$PORT" ;;
    busybox) busybox --list | grep -qx httpd && exec busybox httpd -f -p "127.0.0.1:$PORT" -h public ;;
    perl) exec perl server.pl ;;
  esac
done
echo "no node, python3, busybox httpd or perl on this host" >&2
exit 1
