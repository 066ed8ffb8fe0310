# The commands of pages: "page<TAB>command", from fenced blocks and from lines indented by four; continued lines are joined, what a here
# document holds is left out, and so is what follows " # ".
function flush() { if (command != "") { sub(/ +# .*/, "", command); print page "\t" command } command = "" }
FNR == 1 { flush(); page = FILENAME; fenced = 0; ending = ""; blank = 1 }
/^ *```/ { flush(); fenced = !fenced; ending = ""; next }
{
    text = $0
    inside = fenced || (sub(/^    /, "", text) && (blank || before))
    blank = $0 == ""
    before = inside && !fenced
    if (!inside) { flush(); next }
    if (ending != "") { if (text == ending) ending = ""; next }
    if (command != "") sub(/^ +/, " ", text)
    else {
        sub(/^\$ /, "", text)
        if (text !~ /^([A-Za-z_]+=[^ ]* )*(for|printf|cut|grep|jq|curl|unzip|hf|vllm|quant_probe|\.\/setup|make|aq|aq-[a-z-]+|pipelines\/[a-z0-9-]+|tests\/[a-z\/._-]+|[a-z0-9\/]*python3?)( |$)/) next
    }
    if (match(text, /<<'?[A-Z]+'?/)) { ending = substr(text, RSTART + 2, RLENGTH - 2); gsub(/'/, "", ending) }
    more = sub(/\\$/, "", text)
    command = command text
    if (!more) flush()
}
END { flush() }
