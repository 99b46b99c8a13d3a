# Whether this release may go live: its page must be complete.
set -eu
if grep '@[A-Z]*@' public/index.html; then
    echo "public/index.html still has a gap in it" >&2
    exit 1
fi
echo "public/index.html is complete"
