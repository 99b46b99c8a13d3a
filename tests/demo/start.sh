# Starts the service with the first runtime that is there and works; `start.sh runtime` only says which.
if node -e 0 2>/dev/null; then
    set -- "$1" node server.js
elif python3 -c 0 2>/dev/null; then
    set -- "$1" python3 server.py
elif perl -e 0 2>/dev/null; then
    set -- "$1" perl server.pl
else
    echo "start.sh: there is no node, no python3 and no perl to serve with" >&2
    exit 1
fi
if [ "$1" = runtime ]; then
    echo "$2"
    exit
fi
shift
exec "$@"
