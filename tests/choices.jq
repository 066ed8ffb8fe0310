# Manifests of all rows (-s) against the choices of $v[0][$m]: how many are the same, and of the others those that
# ModelOpt's solver explains, and the rest. gradient: its choice has the higher sum of its own scores, since it stopped
# short. kl_div: one group apart, the one with the highest score of all that are quantized: the bisection ends on either
# side of that score, as its last bit falls.
$v[0] as $want
| [range(length) as $row | .[$row].selection.recipe as $r | $want[$m][$row] as $w
   | ($w.chosen | explode | map(. - 48)) as $theirs
   | [$want.groups[] | if $r[. + ".quant_recipe"].candidate == "NONE" then 0 else 1 end] as $ours
   | [$theirs, $ours | . as $x | [range($x | length) | $x[.] * $w.scores[.]] | add] as [$a, $b]
   | [range($ours | length) | select($ours[.] != $theirs[.])] as $differ | ($differ | length) as $apart
   | ([range($ours | length) | select($ours[.] + $theirs[.] > 0) | $w.scores[.]] | max) as $last
   | {$row, w: $w.w, a: $w.a, theirs: $w.chosen, ours: ($ours | map(tostring) | join("")), times: ($a / $b), $apart,
      explained: (if $m == "kl_div" then $apart == 1 and $w.scores[$differ[0]] == $last else $a > $b end)}] as $all
| {same: ([$all[] | select(.apart == 0)] | length),
   explained: ([$all[] | select(.apart > 0 and .explained)] | length),
   worst: ([$all[] | select(.apart > 0 and .explained) | .times] | max),
   other: [$all[] | select(.apart > 0 and (.explained | not))]}
