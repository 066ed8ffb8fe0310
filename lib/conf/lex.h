/*
 * Tokens of override values. Private to the override parser; the interpolation parser shares the
 * numbers. The longest match wins, as in the grammar that defines the language.
 */
#ifndef AQ_CONF_LEX_H
#define AQ_CONF_LEX_H

#include "io/node.h"

#include <stddef.h>

enum token {
    TOK_END,
    TOK_BAD, /* no token starts here */
    TOK_PAREN_OPEN,
    TOK_PAREN_CLOSE,
    TOK_LIST_OPEN,
    TOK_LIST_CLOSE,
    TOK_MAP_OPEN,
    TOK_MAP_CLOSE,
    TOK_COMMA,
    TOK_COLON,
    TOK_EQUAL,
    TOK_FLOAT,
    TOK_INT,
    TOK_BOOL,
    TOK_NULL,
    TOK_CHAR, /* one of / - \ + . $ % * @ ? | */
    TOK_ID,
    TOK_ESC, /* pairs of a backslash and what it protects */
    TOK_BLANK,
    TOK_QUOTED,
    TOK_INTERPOLATION,
};

struct lexeme {
    enum token token;
    const char *at;
    size_t len; /* blanks around separators included */
};

struct lexeme lex_value(const char *at);

/* Lengths of what matches at the front, 0 if nothing does. */
size_t lex_id(const char *p);         /* [a-zA-Z_][a-zA-Z0-9_-]* */
size_t lex_special_id(const char *p); /* the same with $ */
size_t lex_unsigned(const char *p);   /* 0 | [1-9](_?[0-9])* */
size_t lex_int(const char *p);
size_t lex_float(const char *p);
size_t lex_word(const char *p, const char *word); /* any case */
size_t lex_blanks(const char *p);

/* The value of a token that is a whole primitive; NULL for an integer of too many digits. */
struct node *lex_node(struct aq_arena *a, struct lexeme l, struct place place);
struct node *lex_int_value(struct aq_arena *a, const char *p, size_t n, struct place place);
struct node *lex_float_value(struct aq_arena *a, const char *p, size_t n, struct place place);

#endif
