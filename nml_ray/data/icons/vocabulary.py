"""What an icon's name says: its class, its caption and its drawing style, by word lists alone."""

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHAPE_WORDS = _set(
    """
    circle circled circular circles square squared squares triangle diamond rectangle rect rectangular rectangles
    hexagon octagon pentagon oval ellipse round rounded rounding roundel ring shape shapes angle angled corner
    corners curve curved straight crooked polygon cross cube dot dots dotted dash dashed caret chevron chevrons
    arrow arrows arrowhead badge badged box boxed
    """
) - {"box"}

DIRECTION_WORDS = _set(
    """
    up down left right top bottom upper lower upward upwards downward downwards leftward rightward north south
    east west northeast northwest southeast southwest horizontal horizontally vertical vertically diagonal inward
    inwards outward outwards center centre middle side sides front back forward backward forwards backwards next
    previous prev in out into inside outside ltr rtl alt counterclockwise clockwise reverse reversed flip flipped
    tilted tilt around over under above below
    """
)

SIZE_WORDS = _set(
    """
    small large medium big little tiny mini micro huge tall short wide narrow long xs sm md lg xl xxl full half
    quarter third double triple single multiple multi two three four five six seven eight nine ten one zero first
    second last 1x 2x 3x max min high low compact
    """
)

STYLE_WORDS = _set(
    """
    fill filled solid outline outlined outlines line lines linear lined light thin bold regular duotone duo
    twotone tone tones sharp broken bulk stroke stroked color colored colour colorful coloured flat glyph mono
    monochrome black white dark gray grey red green blue yellow orange purple pink brown plain simple basic
    classic default normal standard baseline new old modern retro variant style styled alternate alternative v1 v2
    v3 v4 type fast slow hard soft hot heavy open opened close closed empty off on no not non more less and or of
    the a an at to for with without from by as is it all any some other general common generic fancy smart
    interface icon icons ui free rare pixel sign symbol symbols button buttons
    """
)

STOP_WORDS = SHAPE_WORDS | DIRECTION_WORDS | SIZE_WORDS | STYLE_WORDS
"""Words that say how an icon is drawn or where it points, not what it shows."""

BRAND_WORDS = _set(
    """
    500px abb adidas adobe adonis aim airbnb airplay airpods airtag aks alexa algolia alibaba aliexpress alipay
    amazon amd amex amplify android angellist angular ansible apache apple appstore appleinc arc arduino asana
    astro atlassian auth0 aws azure babel backstage baidu bandcamp basecamp behance bing bilibili binance
    bitbucket bitcoin bitcoins bitly blackberry blender blogger bluesky bluetooth bootstrap brand brands
    browserstack btc bun cakephp canva carplay cardano cashapp chatgpt chrome chromecast cisco claude clickup
    cloudflare codecademy codepen codesandbox coinbase confluence copilot cortana creativecommons css css3
    cucumber cypress d3 dailymotion databricks datadog debian deezer deno deepseek deviantart digg digitalocean
    discord discourse disney django docker dogecoin douban doubleclick drizzle dribbble dropbox drupal duckduckgo
    duolingo ebay eclipse edge elastic elasticsearch electron elixir elm ember emojione envato epicgames erlang
    eslint eth ethereum etherium etsy evernote excel expo facebook facetime fastapi fastify fedora fedex figma
    fiverr firebase firefox firestore flask flatpak flattr flickr flipboard flutter foursquare framer freebsd
    fsharp fujifilm garmin gatsby gemini gimp git gitea github gitlab gitter gitpod gmail gmx gnome gnu godaddy
    godot golang goodreads google googleplay gradle grafana graphql grok grunt gulp hackernews hackerrank haskell
    hangouts heroku hibernate hotmail html html5 huawei hubspot huggingface hulu ibm ie ikea illustrator imdb
    indesign instacart instagram intel intellij invision ios ipad iphone ipfs itunes jakarta java javascript jboss
    jcb jenkins jest jetbrains jira joomla jquery js json jsx julia jupyter kafka kakao kde kickstarter kotlin
    kraken kubernetes laravel lastfm launchpad lightroom linkedin linux linode litecoin livejournal logo logos
    macos mailchimp maestro mandriva mapbox markdown mastercard mastodon mattermost mcp messenger meta metamask
    microsoft minecraft mistral monero mongodb mozilla msn mysql myspace n8n nest nestjs netflix netlify nextcloud
    nextjs nginx nintendo node nodejs notion npm nuget nuxt nvidia odnoklassniki office365 okta onedrive onenote
    openai openbsd opencart openid opensea openshift openstack opera oracle origin outlook pandora patreon paypal
    perplexity periscope photoshop php pinterest playstation pnpm pocket polkadot postgresql postman powerpoint
    premierepro prettier prisma producthunt prestashop pypi python pytorch qq qt quarkus quora raspberry
    raspberrypi react redbubble reddit redis redux renren revolut rollup roku ruby rust safari salesforce samsung
    sass scala scribd shopify siemens signalapp sina siri sketch skype slack slackware slideshare snapchat sogou
    solana solidity soundcloud sourceforge sourcetree spotify spring-boot squarespace stackoverflow stackexchange
    steam steemit storybook strava stripe stumbleupon sublime supabase superdrive surfaceduo suse svelte svg swift
    symfony tailwind tailwindcss taobao teams teamviewer telegram tensorflow terraform tesla tether threads tidal
    tiktok tinder trello tripadvisor tumblr twilio twitch twitter typescript typo3 uber ubuntu unity unreal ups
    upwork usps vercel viber vimeo vine virtualbox visa visualstudio vite vitest vk vkontakte vlc vmware vscode
    vue vuejs walmart watson waze webflow webpack wechat weibo whatsapp wii wikipedia windows wix woocommerce
    wordpress wpforms wsl xamarin xbox xcode xing xrp yahoo yammer yandex yarn yelp youku youtube zalo zapier
    zcash zendesk zhihu zigbee zoho zulip mac imac macbook chromebook polaroid enterprisedb wars usa
    """
)
"""An icon with one of these words anywhere in its name is left out."""

BRAND_PHRASES = ("c plus plus", "c sharp", "visual basic", "creative commons", "star trek")
"""Marks of several common words."""

NOT_PLURALS = _set(
    """
    news times bars glasses gas gps lens compass bus stairs pants scissors sms css dos ios plus
    """
)
"""Words ending in s that are not the plural of the word without it (or mean another thing: 'bars' is a menu)."""

_UNIT = re.compile(r"\d+([a-z]{0,2}|px|min|sec)?")

DUOTONE = _set("duotone twotone duo")
FILL = _set("fill filled solid bulk glyph")
OUTLINE = _set("outline outlined line linear lined stroke")
BOLD = frozenset({"bold"})
THIN = _set("thin light")
STYLES: tuple[tuple[str, frozenset[str]], ...] = (
    ("duotone", DUOTONE),
    ("fill", FILL),
    ("thin", THIN),
    ("outline", OUTLINE),
    ("bold", BOLD),
)
"""Drawing styles by word, the first that applies."""


def words(name: str) -> list[str]:
    """The words of an icon's or a family's name."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def is_stop(word: str) -> bool:
    """Whether a word cannot name a class: in the stop list, a single letter, or a number with or without unit."""
    return word in STOP_WORDS or len(word) < 2 or _UNIT.fullmatch(word) is not None


def content_words(name: str) -> list[str]:
    """The words of a name that say what it shows, in order."""
    return [word for word in words(name) if not is_stop(word)]


def singular(word: str, vocabulary: frozenset[str]) -> str:
    """The word without a plural s where that is a first word of icons too."""
    if word in NOT_PLURALS or not word.endswith("s") or word.endswith("ss"):
        return word
    return word[:-1] if word[:-1] in vocabulary else word


def has_brand(name: str) -> bool:
    """Whether the name holds a brand word or phrase."""
    return not BRAND_WORDS.isdisjoint(words(name)) or any(phrase in caption(name) for phrase in BRAND_PHRASES)


def caption(name: str) -> str:
    """The name in words."""
    return " ".join(words(name))


def style(name: str, family: str) -> str:
    """The drawing style by the words of the icon's name, else of its family's, else `plain`.

    A style word at the start of a name counts only where a family puts its styles first (`outline-home`,
    `twotone-home`), since 'line', 'light' and 'bold' also begin the names of things ('line-chart').
    """
    of_name = words(name)
    first = [word for word in of_name[:1] if word in {"outline", "twotone"}]
    for found in (set(of_name[1:]) | set(first), set(words(family))):
        for label, marks in STYLES:
            if not marks.isdisjoint(found):
                return label
    return "plain"
