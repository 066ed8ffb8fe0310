# The calibration captions out of COCO's captions_*.json, read with --slurp: 512 lines in a fixed random order, at most one
# caption of an image and no caption twice. The order depends on the annotation ids alone, not on their order in the file.

def refuse($text): "coco.jq: \($text)\n" | halt_error(3);

def is_id: type == "number" and . == floor and . >= 0 and . < 9007199254740992;

# A fixed pseudo-random number of an id. Two rounds; the second factor depends on the value, so that neighbouring ids do
# not end up at even distances. All products stay below 2^53, where jq counts exactly.
def mix: . * (. % 1009 + 48271) % 2147483647;
def order: .id % 2147483647 | mix | . + 12345 | mix;

def clean: gsub("[\\s\\p{Cc}]+"; " ") | ltrimstr(" ") | rtrimstr(" ");
def usable: length <= 1000 and test("\\p{L}") and (contains("\ufffd") | not);

def fault:
    if type != "object" then "is of type \(type), expected an object"
    elif .id | is_id | not then "id is \(.id | tojson[:40]), expected a whole number"
    elif .image_id | is_id | not then "image_id is \(.image_id | tojson[:40]), expected a whole number"
    elif .caption | type != "string" then "caption is \(.caption | tojson[:40]), expected a string"
    else empty end;

if length != 1 then refuse("found \(length) JSON values, expected one") else .[0] end
| if type != "object" or (.annotations | type) != "array"
  then refuse("no array 'annotations': is this one of COCO's captions_*.json?") else .annotations end
| . as $all
| (first(range($all | length) as $i | $all[$i] | fault | "annotations[\($i)]: \(.)") // null) as $fault
| if $fault then refuse($fault) else . end
| sort_by(order, .id, .image_id, .caption)
| [limit(512; foreach .[] as $a (
      {images: {}, texts: {}};
      ($a.image_id | tostring) as $image
      | .line = null
      | if .images[$image] then . else
          ($a.caption | if length <= 4000 then clean else "" end) as $text
          | if ($text | usable) and (.texts[$text] | not)
            then .images[$image] = true | .texts[$text] = true | .line = $text else . end
        end;
      .line | select(.)))]
| if length < 512 then refuse("found \(length) usable captions of different images, 512 are needed") else .[] end
