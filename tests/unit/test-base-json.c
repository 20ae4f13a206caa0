/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no JSON from outside crashes us, warns on the terminal or yields a value of another type
 * than was asked for; what is wrong is named in one line. */
#include "base/json.h"

#include <stasis/error.h>
#include <string.h>

static JsonObject *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    JsonObject *object = stasis_json_parse_object(text, -1, &error);
    g_assert_no_error(error);
    return object;
}

static void assert_refused(const char *text, gssize len)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(stasis_json_parse_object(text, len, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_null(strchr(error->message, '\n'));
    g_assert_null(strchr(error->message, '\r'));
    g_assert_true(g_utf8_validate(error->message, -1, NULL));
}

static void test_refused(void)
{
    static const char *const texts[] = {
        "",
        " ",
        "null",
        "true",
        "12",
        "\"x\"",
        "[]",
        "[{}]",
        "{",
        "}",
        "{}}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1",
        "{a:1}",
        "{\"a\":1,,}",
        "{\"a\":\"",
        "{\"a\" 1}",
        "{\n\"a\"\n\r:\nx\n}",
        "{\"\\ud800\"",
        "{\"a\":\"\\ud800\"}",
        "\"",
        "\\",
        "{\"a\":nul",
        "{\"a\":-}",
        "{\"a\":1]",
        "[{]}",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
        assert_refused(texts[i], -1);
    assert_refused("{\"a\":\"\xff\"}", -1);
    assert_refused("{\"a\":\"\xed\xa0\x80\"}", -1);
    assert_refused("{\"a\":\"x\0y\"}", 11);
    assert_refused("{}\0", 3);
    /* The length is believed, not the end of the string. */
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) cut = stasis_json_parse_object("{\"a\":1}garbage", 7, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_json_uint_or(cut, "a", 0), ==, 1);
    g_autofree char *exact = g_memdup2("{\"a\":2}", 7);
    g_autoptr(JsonObject) unterminated = stasis_json_parse_object(exact, 7, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_json_uint_or(unterminated, "a", 0), ==, 2);
}

/* An object in @n - 1 arrays or objects. */
static char *nested(guint n, gboolean arrays)
{
    GString *text = g_string_new(arrays ? "{\"a\":" : "");
    for (guint i = arrays; i < n; i++)
        g_string_append(text, arrays ? "[" : "{\"a\":");
    g_string_append(text, "1");
    for (guint i = arrays; i < n; i++)
        g_string_append_c(text, arrays ? ']' : '}');
    return g_string_free(g_string_append(text, arrays ? "}" : ""), FALSE);
}

static void assert_deep(const char *text, gboolean accepted)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) object = stasis_json_parse_deep(text, -1, &error);
    g_assert_true((object != NULL) == accepted && (error == NULL) == accepted);
}

static void test_depth(void)
{
    for (guint arrays = 0; arrays < 2; arrays++) {
        g_autofree char *deepest = nested(32, arrays), *deeper = nested(33, arrays);
        g_autofree char *abyss = nested(200000, arrays);
        g_autoptr(JsonObject) object = parse(deepest);
        assert_refused(deeper, -1);
        assert_deep(deeper, TRUE);
        assert_refused(abyss, -1);
        abyss[strlen(abyss) / 2] = '\0';
        assert_refused(abyss, -1);
    }
    g_autofree char *deepest = nested(128, FALSE), *deeper = nested(129, FALSE);
    assert_deep(deepest, TRUE);
    assert_deep(deeper, FALSE);
    /* Brackets in strings are no depth, also behind an escaped quote. */
    g_autofree char *many = g_strnfill(100, '[');
    g_autofree char *quoted = g_strdup_printf("{\"%s\":\"\\\"%s\\\\\"}", many, many);
    g_autoptr(JsonObject) harmless = parse(quoted);
}

/* What json-glib takes beyond JSON (comments, single quotes) does not hide depth from the check:
 * its parser recurses, and a quarter of a million brackets end the process. */
static const char *const hiding[] = { "{'\"':", "/*\"*/{\"a\":", "{/*\"*/\"a\":", "{\"a\":/*\"*/" };

static void hidden_depth(gconstpointer data)
{
    const guint n = 250000;
    g_autofree char *open = g_strnfill(n, '['), *shut = g_strnfill(n, ']');
    g_autofree char *text = g_strdup_printf("%s%s%s}", (const char *)data, open, shut);
    assert_refused(text, -1);
}

static void test_hidden_depth(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(hiding); i++) {
        g_autofree char *path = g_strdup_printf("/base/json/subprocess/hidden-depth/%u", i);
        g_test_trap_subprocess(path, 0, 0);
        g_test_trap_assert_passed();
    }
}

#define ALL_TYPES                                                                       \
    "{\"s\":\"text\",\"u\":7,\"n\":-1,\"f\":1.5,\"t\":true,\"z\":null,\"o\":{\"x\":1}," \
    "\"a\":[{\"y\":2},\"str\",3,null,\"\\222\"]}"

/* Of each member of ALL_TYPES: only the getter of its own type takes it. */
static void test_types(void)
{
    static const char *const names[] = { "s", "u", "n", "f", "t", "z", "o", "a", "missing" };
    g_autoptr(JsonObject) object = parse(ALL_TYPES);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *name = names[i], *s = "untouched";
        guint64 u = 99;
        gboolean b = 42;
        JsonObject *o = NULL;
        JsonArray *a = NULL;
        GError *errors[5] = { 0 };
        char owner[5] = { 's', 'u', 't', 'o', 'a' };
        gboolean ok[5] = { stasis_json_string(object, name, &s, &errors[0]),
                           stasis_json_uint(object, name, &u, &errors[1]),
                           stasis_json_bool(object, name, &b, &errors[2]),
                           stasis_json_object(object, name, &o, &errors[3]),
                           stasis_json_array(object, name, &a, &errors[4]) };
        for (guint k = 0; k < 5; k++) {
            g_assert_cmpint(ok[k], ==, name[0] == owner[k]);
            if (ok[k])
                continue;
            g_assert_error(errors[k], STASIS_ERROR, STASIS_ERROR_CORRUPT);
            g_assert_nonnull(strstr(errors[k]->message, name));
            g_clear_error(&errors[k]);
        }
        g_assert_cmpstr(s, ==, ok[0] ? "text" : "untouched");
        g_assert_cmpuint(u, ==, ok[1] ? 7 : 99);
        g_assert_cmpint(b, ==, ok[2] ? TRUE : 42);
        g_assert_cmpint(o != NULL, ==, ok[3]);
        g_assert_cmpint(a != NULL, ==, ok[4]);
        g_assert_cmpstr(stasis_json_string_or(object, name, "no"), ==, ok[0] ? "text" : "no");
        g_assert_cmpuint(stasis_json_uint_or(object, name, 5), ==, ok[1] ? 7 : 5);
        g_assert_cmpint(stasis_json_bool_or(object, name, FALSE), ==, ok[2]);
    }
}

static void test_elements(void)
{
    g_autoptr(JsonObject) object = parse(ALL_TYPES);
    g_autoptr(GError) error = NULL;
    JsonArray *array = NULL;
    stasis_json_array(object, "a", &array, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 8; i++) {
        JsonObject *o = NULL;
        const char *s = NULL;
        g_assert_cmpint(stasis_json_object_at(array, i, &o, &error), ==, i == 0);
        g_assert_cmpint(error == NULL, ==, i == 0);
        g_clear_error(&error);
        g_assert_cmpint(stasis_json_string_at(array, i, &s, &error), ==, i == 1);
        g_assert_cmpint(error == NULL, ==, i == 1);
        g_clear_error(&error);
        g_assert_cmpstr(s, ==, i == 1 ? "str" : NULL);
        g_assert_cmpint(o != NULL, ==, i == 0);
    }
}

static void assert_strings(JsonObject *object, const char *name, guint max, guint wanted)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) strings = stasis_json_strings(object, name, max, &error);
    g_assert_cmpint(strings == NULL, ==, wanted == G_MAXUINT);
    if (strings != NULL) {
        g_assert_no_error(error);
        g_assert_cmpuint(g_strv_length(strings), ==, wanted);
        return;
    }
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_nonnull(strstr(error->message, name));
}

/* A list of strings comes whole or not at all, and is what was written. */
static void test_strings(void)
{
    static const char *const words[] = { "", "two", "gr\xc3\xb6\xc3\x9f", NULL };
    static const char *const odd[] = { "x\xffy", NULL }, *const none[] = { NULL };
    g_autoptr(JsonObject) object = parse(ALL_TYPES);
    stasis_json_set_strings(object, "words", words);
    stasis_json_set_strings(object, "odd", odd);
    stasis_json_set_strings(object, "none", none);
    stasis_json_set_strings(object, "null", NULL);
    g_assert_false(json_object_has_member(object, "null"));
    assert_strings(object, "words", 3, 3);
    assert_strings(object, "words", 2, G_MAXUINT);
    assert_strings(object, "odd", 1, 1);
    assert_strings(object, "none", 0, 0);
    assert_strings(object, "null", 9, G_MAXUINT);
    assert_strings(object, "a", 9, G_MAXUINT);
    assert_strings(object, "s", 9, G_MAXUINT);
    g_auto(GStrv) read = stasis_json_strings(object, "words", 3, NULL);
    g_assert_true(g_strv_equal(words, (const char *const *)read));
}

/* json-glib takes "\222" for one byte: such a string is none of ours. */
static void test_octal_escape(void)
{
    g_autoptr(JsonObject) object = parse("{\"a\":\"x\\222y\",\"b\":\"gr\xc3\xb6\xc3\x9f\\u00e9\"}");
    g_autoptr(GError) error = NULL;
    const char *text = "untouched";
    g_assert_false(stasis_json_string(object, "a", &text, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_cmpstr(text, ==, "untouched");
    g_assert_cmpstr(stasis_json_string_or(object, "a", "fallback"), ==, "fallback");
    g_assert_cmpstr(stasis_json_string_or(object, "b", NULL), ==, "größé");
}

static void test_numbers(void)
{
    static const struct {
        const char *text;
        gboolean ok;
        guint64 value;
    } numbers[] = {
        { "0", TRUE, 0 },
        { "9223372036854775807", TRUE, G_MAXINT64 },
        { "-1", FALSE, 0 },
        { "-9223372036854775808", FALSE, 0 },
        { "1.0", FALSE, 0 },
        { "1e3", FALSE, 0 },
        { "\"1\"", FALSE, 0 },
        /* Past 63 bits: nobody may get a value that wrapped or was cut. */
        { "9223372036854775808", FALSE, 0 },
        { "18446744073709551615", FALSE, 0 },
        { "18446744073709551616", FALSE, 0 },
        { "18446744073709551617", FALSE, 0 },
        { "-9223372036854775809", FALSE, 0 },
        { "-18446744073709551615", FALSE, 0 },
        { "99999999999999999999999999", FALSE, 0 },
    };
    for (guint i = 0; i < G_N_ELEMENTS(numbers); i++) {
        g_autofree char *text = g_strdup_printf("{\"n\":%s}", numbers[i].text);
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonObject) object = stasis_json_parse_object(text, -1, &error);
        guint64 value = 12;
        gboolean ok = object != NULL && stasis_json_uint(object, "n", &value, &error);
        g_test_message("%s: %d %" G_GUINT64_FORMAT, numbers[i].text, ok, value);
        g_assert_cmpint(ok, ==, error == NULL);
        g_assert_cmpint(ok, ==, numbers[i].ok);
        g_assert_cmpuint(value, ==, ok ? numbers[i].value : 12);
    }
}

static void test_to_text(void)
{
    g_autoptr(JsonObject) object = parse(ALL_TYPES);
    g_autofree char *line = stasis_json_to_text(object, FALSE);
    g_autofree char *pretty = stasis_json_to_text(object, TRUE);
    g_assert_null(strchr(line, '\n'));
    g_assert_nonnull(strchr(pretty, '\n'));
    g_assert_false(g_str_has_suffix(pretty, "\n"));
    g_autoptr(JsonObject) plain =
        parse("{\"a\":\"\\n\\\"\\\\\",\"b\":[1,{}],\"c\":9007199254740993}");
    g_autofree char *text = stasis_json_to_text(plain, FALSE);
    g_autoptr(JsonObject) again = parse(text);
    g_assert_cmpstr(stasis_json_string_or(again, "a", NULL), ==, "\n\"\\");
    g_assert_cmpuint(stasis_json_uint_or(again, "c", 0), ==, 9007199254740993);
}

/* Random bytes, and valid text with bytes changed: an object or an error. */
static void test_noise(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    for (guint i = 0; i < 20000; i++) {
        g_autofree char *text = g_strdup(ALL_TYPES);
        gsize len = strlen(text);
        for (gint32 n = g_rand_int_range(rand, 1, 6); n > 0; n--)
            text[g_rand_int_range(rand, 0, (gint32)len)] =
                i % 2 ? (char)g_rand_int(rand) : "{}[]\",:\\0-e "[g_rand_int_range(rand, 0, 12)];
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonObject) object = stasis_json_parse_object(text, (gssize)len, &error);
        g_assert_cmpint(object == NULL, ==, error != NULL);
        const char *s = object != NULL ? stasis_json_string_or(object, "s", "") : "";
        g_assert_true(g_utf8_validate(s, -1, NULL));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/json/refused", test_refused);
    g_test_add_func("/base/json/depth", test_depth);
    g_test_add_func("/base/json/types", test_types);
    g_test_add_func("/base/json/elements", test_elements);
    g_test_add_func("/base/json/strings", test_strings);
    g_test_add_func("/base/json/octal-escape", test_octal_escape);
    g_test_add_func("/base/json/to-text", test_to_text);
    g_test_add_func("/base/json/noise", test_noise);
    g_test_add_func("/base/json/numbers", test_numbers);
    g_test_add_func("/base/json/hidden-depth", test_hidden_depth);
    for (guint i = 0; i < G_N_ELEMENTS(hiding); i++) {
        g_autofree char *path = g_strdup_printf("/base/json/subprocess/hidden-depth/%u", i);
        g_test_add_data_func(path, hiding[i], hidden_depth);
    }
    return g_test_run();
}
