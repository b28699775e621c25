# Stands for everything that keeps lists of people: adds a line to build/office/<list>.txt.
set -eu
mkdir -p build/office
printf '%s\n' "$2" >>"build/office/$1.txt"
echo "$1: $2"
