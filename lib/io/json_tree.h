/*
 * How a struct json is a cJSON item: shared by json.c and json_parse.c, and nobody else's business.
 * Two bits of its type that cJSON leaves free say what its double cannot.
 */
#ifndef AQ_IO_JSON_TREE_H
#define AQ_IO_JSON_TREE_H

enum {
    JSON_INT_BIT = 1 << 16,  /* an integer */
    JSON_TEXT_BIT = 1 << 17, /* an integer that a double may not hold: valuestring is its text */
};

#endif
