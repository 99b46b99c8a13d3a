# The installation: makes the page that is served.
set -eu
version=$(cat VERSION)
echo "building version $version of $GANGPLANK_PROJECT"
mkdir -p public
sed -e "s/@VERSION@/$version/" -e "s/@DEPLOYMENT@/$GANGPLANK_DEPLOYMENT_ID/" page.html >public/index.html
echo "wrote public/index.html, $(wc -c <public/index.html | tr -d ' ') bytes"
