# The script that writes docs/padding.md: its checks hold, and the page has the sections that it writes.
load helpers

@test "a padded score is its pad position's part and the score of the text" {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf AQ_BIN=$BIN AQ_GEN=$O/tests
    cp "$REPO/docs/padding.md" page.md
    aq 0 python3 "$REPO/tests/oracle/padding.py" small page.md
    has "$(cat page.md)" "16 captions"
    is "$(grep '^#' page.md)" "$(grep '^#' "$REPO/docs/padding.md")"
}
