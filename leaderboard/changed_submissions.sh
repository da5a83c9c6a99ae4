#!/usr/bin/env bash
# Usage: changed_submissions.sh BASE HEAD
# Puts the submission folders that HEAD adds or changes into the working tree, and prints them, one a line. Refuses
# names that are no slugs, and commits that touch anything but submissions (the checker's own files above all).
set -euo pipefail
base=$(git merge-base "$1" "$2")

# -z: names as they are, whatever characters they hold.
git diff -z --name-only --no-renames "$base" "$2" > changed.tmp
folders=()
while IFS= read -r -d '' path; do
  if [[ ! $path =~ ^leaderboard/submissions/([a-z0-9][a-z0-9.-]{0,150})/[^/]+(/[^/]+)?$ ]]; then
    printf 'error: %q is outside leaderboard/submissions/NAME/; put other changes into another pull request\n' "$path" >&2
    rm -f changed.tmp
    exit 1
  fi
  folders+=("leaderboard/submissions/${BASH_REMATCH[1]}")
done < changed.tmp
rm -f changed.tmp

mapfile -t folders < <(printf '%s\n' "${folders[@]}" | sort -u)
for folder in "${folders[@]}"; do
  rm -rf -- "$folder"
  # A submission that was withdrawn has nothing to verify.
  if git cat-file -e "$2:$folder" 2> /dev/null; then
    git -c core.symlinks=false checkout --quiet "$2" -- "$folder"
    printf '%s\n' "$folder"
  fi
done
