"""The shaders: skin, eyes, mouth and hair, in one light."""

from __future__ import annotations

_VERTEX = """
#version 330
uniform mat4 view;      // head to camera
uniform mat4 lens;      // camera to picture
in vec3 place;          // cm, head
in vec3 normal;
in vec4 extra;          // what each group needs
in vec2 at;             // texture
out vec3 seen;          // camera
out vec3 facing;
out vec4 more;
out vec2 uv;
void main() {
    vec4 p = view * vec4(place, 1.0);
    seen = p.xyz;
    facing = mat3(view) * normal;
    more = extra;
    uv = at;
    gl_Position = lens * p;
}
"""

_LIGHT = """
#version 330
uniform vec3 key_from;    // camera space, unit
uniform vec3 key;         // linear colour
uniform vec3 fill_from;
uniform vec3 fill;
uniform vec3 sky;         // from above
uniform vec3 ground;      // from below
uniform float wrap;       // how far light creeps around the terminator: skin scatters
in vec3 seen;
in vec3 facing;
in vec4 more;
in vec2 uv;
out vec4 colour;

vec3 lit(vec3 n, vec3 albedo, float open) {
    vec3 w = vec3(wrap + 0.12, wrap, wrap) ;
    vec3 a = clamp((dot(n, key_from) + w) / (1.0 + w), 0.0, 1.0);
    vec3 b = clamp((dot(n, fill_from) + w) / (1.0 + w), 0.0, 1.0);
    vec3 around = mix(ground, sky, 0.5 + 0.5 * n.y);
    return albedo * (key * a * mix(0.6, 1.0, open) + fill * b * open + around * open * open);
}
// Blinn-Phong to the powers 16, 64 and 256, by squaring: pow() is slow in software
vec3 shine(vec3 n, vec3 from) {
    vec3 h = normalize(from - normalize(seen));
    float c = max(dot(n, h), 0.0);
    c *= c; c *= c; c *= c; c *= c;
    float sharp = c * c; sharp *= sharp;
    float point = sharp * sharp; point *= point;
    return vec3(c, sharp, point);
}
vec3 shown(vec3 linear) { return sqrt(clamp(linear, 0.0, 1.0)); }
"""

_BUMP = """
vec3 bumped(vec3 n, float height) {
    // M. S. Mikkelsen, "Bump Mapping Unparametrized Surfaces on the GPU" (2010)
    vec3 dx = dFdx(seen), dy = dFdy(seen);
    vec3 r1 = cross(dy, n), r2 = cross(n, dx);
    float det = dot(dx, r1);
    vec3 slope = sign(det) * (dFdx(height) * r1 + dFdy(height) * r2);
    return normalize(abs(det) * n - slope);
}
"""

SKIN = (
    _VERTEX,
    _LIGHT
    + _BUMP
    + """
uniform sampler2D paint;
uniform sampler2D furrows_a;
uniform sampler2D furrows_b;
uniform sampler2D furrows_c;
uniform vec4 depth_left[3];    // of the twelve maps, 0-1
uniform vec4 depth_right[3];
uniform float relief;          // cm
uniform float gloss;
uniform sampler2D photo;       // used where `from_photo` is 1
uniform float from_photo;
void main() {
    float left = smoothstep(0.485, 0.515, uv.x);
    vec4 a = texture(furrows_a, uv) - 128.0 / 255.0;
    vec4 b = texture(furrows_b, uv) - 128.0 / 255.0;
    vec4 c = texture(furrows_c, uv) - 128.0 / 255.0;
    float h = 2.0 * (dot(a, mix(depth_right[0], depth_left[0], left))
                   + dot(b, mix(depth_right[1], depth_left[1], left))
                   + dot(c, mix(depth_right[2], depth_left[2], left)));
    h = clamp(h, -1.2, 1.0);
    vec3 n = normalize(facing);
    vec3 m = bumped(n, h * relief);
    float open = clamp(1.0 - 0.30 * max(more.x, 0.0), 0.35, 1.0) * more.y;
    open *= 1.0 + 0.45 * min(h, 0.0);
    if (from_photo > 0.5) {
        // light is in the photo: only what the movement changes is added
        if (any(lessThan(more.zw, vec2(0.0))) || any(greaterThan(more.zw, vec2(1.0)))) discard;
        vec3 seen_then = texture(photo, more.zw).rgb;
        float before = dot(lit(n, vec3(1.0), 1.0), vec3(0.333));
        float now = dot(lit(m, vec3(1.0), 1.0 + 0.22 * max(min(h, 0.0), -1.0)), vec3(0.333));
        colour = vec4(clamp(seen_then * clamp(now / max(before, 0.02), 0.45, 1.35), 0.0, 1.0), 1.0);
        return;
    }
    vec3 albedo = texture(paint, uv).rgb;
    albedo *= albedo;
    vec3 c1 = lit(m, albedo, open);
    c1 += gloss * open * dot(shine(m, key_from), vec3(0.6, 0.45, 0.0)) * key;
    colour = vec4(shown(c1), 1.0);
}
""",
)
"""`extra`: hollowness, openness to the sky, and the place in the photo."""

EYES = (
    _VERTEX,
    _LIGHT
    + """
uniform vec3 iris_tone;
uniform vec3 white_tone;
uniform float pupil;       // radius, cm
uniform float iris;        // radius, cm
uniform vec3 lid_shade;    // camera-space: y of the upper lid's edge of both eyes, and softness
uniform sampler2D photo;   // used where `from_photo` is 1: eyeballs stay, so they lie as in it
uniform float from_photo;
uniform vec2 picture;      // pixels
void main() {
    if (from_photo > 0.5) {
        vec2 here = gl_FragCoord.xy / picture;
        colour = vec4(texture(photo, vec2(here.x, 1.0 - here.y)).rgb, 1.0);
        return;
    }
    vec3 n = normalize(facing);
    float r = more.x;
    float spoke = 0.85 + 0.3 * fract(sin(floor(more.y * 40.0) * 12.9898) * 43758.5453);
    vec3 inner = mix(iris_tone * 1.5, iris_tone, smoothstep(pupil, iris, r)) * spoke;
    vec3 albedo = mix(vec3(0.012), inner, smoothstep(pupil - 0.04, pupil + 0.04, r));
    albedo = mix(albedo, iris_tone * 0.3, smoothstep(iris - 0.16, iris - 0.02, r));
    albedo = mix(albedo, white_tone, smoothstep(iris - 0.04, iris + 0.08, r));
    albedo *= albedo;
    float lid = more.z > 0.0 ? lid_shade.x : lid_shade.y;
    float open = mix(0.38, 1.0, smoothstep(0.0, lid_shade.z, lid - seen.y)) * 0.9;
    vec3 c = lit(n, albedo, open);
    c += open * (key * 0.9 * shine(n, key_from).z + 0.5 * fill * shine(n, fill_from).z);
    colour = vec4(shown(c), 1.0);
}
""",
)
"""`extra`: distance from the optical axis (cm; 9 on the back), angle about it, side, 1 or -1."""

MOUTH = (
    _VERTEX,
    _LIGHT
    + """
uniform float lips;       // camera z of the inner lips
uniform vec3 teeth_tone;
void main() {
    vec3 n = normalize(facing);
    vec3 flesh = more.x < 0.5 ? vec3(0.30, 0.09, 0.08) : vec3(0.60, 0.26, 0.25);
    vec3 albedo = more.x < 1.5 ? flesh : teeth_tone;
    albedo *= albedo;
    float deep = clamp((lips - seen.z) / (more.x > 1.5 ? 5.0 : 3.6), 0.0, 1.0);
    float open = mix(0.95, 0.08, smoothstep(0.0, 1.0, deep));
    vec3 c = lit(n, albedo, open) * (more.x > 1.5 ? 1.0 : open);
    c += 0.15 * open * key * shine(n, key_from).y;
    colour = vec4(shown(c), 1.0);
}
""",
)
"""`extra`: 0 socket, 1 gums and tongue, 2 teeth."""

HAIR = (
    _VERTEX,
    _LIGHT
    + """
uniform sampler2D strands;
uniform vec3 hair_tone;
uniform float cloth;      // 0 hair, 1 a cap or scarf
void main() {
    vec3 n = normalize(facing);
    float streak = texture(strands, uv * vec2(3.0, 1.0)).r;
    float edge = more.x + (1.0 - cloth) * 0.35 * (streak - 0.5);
    if (edge < 0.22) discard;
    vec3 albedo = hair_tone * mix(0.45 + 1.0 * streak, 0.9 + 0.12 * streak, cloth);
    albedo *= albedo;
    vec3 c = lit(n, albedo, 0.9);
    c += (1.0 - cloth) * 0.10 * streak * key * shine(n, key_from).x;
    colour = vec4(shown(c), 1.0);
}
""",
)
"""`extra`: cover 0-1."""
