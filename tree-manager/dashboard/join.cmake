# cmake -DOUTPUT=d3.js -DFILES=a.js|b.js… -P join.cmake: the files behind each other.
string(REPLACE "|" ";" FILES "${FILES}")
file(WRITE "${OUTPUT}" "")
foreach(file ${FILES})
  file(READ "${file}" text)
  file(APPEND "${OUTPUT}" "${text}\n")
endforeach()
