# Builds the page, as a real component would build its bundle.
set -eu
echo "building the page of version $(cat VERSION)"
mkdir -p public
printf '<h1>Hello from version %s</h1>\n' "$(cat VERSION)" > public/index.html
echo "wrote public/index.html ($(wc -c < public/index.html) bytes)"
