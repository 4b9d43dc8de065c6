"""Names and sentences of the customers, in the languages that a support inbox has to show.

Two scripts run right to left, two need more than one code point per visible sign, some names have marks:
what goes wrong in a user interface or an index goes wrong here first.
"""

from msgspec import Struct


class Tongue(Struct, frozen=True):
    """What people of one language are called and say."""

    language: str
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    openings: tuple[str, ...]
    sentences: tuple[str, ...]
    answers: tuple[str, ...]


TONGUES: tuple[Tongue, ...] = (
    Tongue(
        "ar",
        ("ليلى", "عمر", "نورة", "خالد", "سارة", "يوسف"),
        ("الحربي", "منصور", "الزهراني", "حداد"),
        ("السلام عليكم", "مرحبا 👋", "صباح الخير"),
        (
            "هل المنتج متوفر باللون الأسود؟",
            "متى يصل طلبي رقم 1042؟",
            "كم سعر التوصيل إلى جدة؟",
            "أريد استبدال المقاس من فضلك",
        ),
        ("شكرا جزيلا", "تمام", "لا، أريد شيئا آخر", "ممتاز 🙏"),
    ),
    Tongue(
        "en",
        ("Amelia", "Jack", "Priya", "Tom", "Grace", "Noah"),
        ("Walker", "O'Neill", "Shah", "Bennett"),
        ("Hi!", "Hello, is anyone there?", "Good morning"),
        (
            "Do you have this in size 42?",
            "My order 1042 has not arrived yet",
            "What are your opening hours?",
            "Can I still change the address? https://example.com/o/1042",
        ),
        ("Thanks a lot!", "Perfect", "Hmm, not quite what I meant", "OK 👍"),
    ),
    Tongue(
        "fr",
        ("Chloé", "Théo", "Zoé", "François"),
        ("Lefèvre", "Dupont", "Noël"),
        ("Bonjour", "Bonsoir, une question"),
        ("Est-ce que vous livrez à Lyon ?", "Je n'ai pas reçu ma facture", "Où en est ma commande n° 1042 ?"),
        ("Merci beaucoup", "D'accord", "Ça marche 😊"),
    ),
    Tongue(
        "es",
        ("Lucía", "Íñigo", "Begoña", "Mateo"),
        ("Muñoz", "García", "Peña"),
        ("¡Hola!", "Buenas tardes"),
        (
            "¿Tienen el modelo en azul?",
            "¿Cuánto cuesta el envío a Sevilla?",
            "Quisiera devolver el pedido 1042",
        ),
        ("¡Gracias!", "Vale", "No, otra cosa"),
    ),
    Tongue(
        "hi",
        ("आरव", "दिया", "रोहन", "मीरा"),
        ("शर्मा", "वर्मा", "सिंह"),
        ("नमस्ते", "हैलो 🙏"),
        ("क्या यह अभी उपलब्ध है?", "मेरा ऑर्डर 1042 कब आएगा?", "डिलीवरी का शुल्क कितना है?"),
        ("धन्यवाद", "ठीक है", "बहुत बढ़िया"),
    ),
    Tongue(
        "tr",
        ("Çağla", "Işıl", "Ömer", "Gökhan"),
        ("Yılmaz", "Şahin", "Öztürk"),
        ("Merhaba", "İyi günler"),
        ("Siparişim ne zaman gelir?", "Bu ürünün kırmızısı var mı?", "İade süresi kaç gün?"),
        ("Teşekkürler", "Tamam", "Çok iyi 👌"),
    ),
    Tongue(
        "de",
        ("Jürgen", "Zoë", "Björn", "Käthe"),
        ("Groß", "Müller", "Weiß"),
        ("Guten Tag", "Moin"),
        (
            "Gibt es das auch in Größe 42?",
            "Wo bleibt meine Bestellung 1042?",
            "Kann ich auf Rechnung zahlen?",
        ),
        ("Vielen Dank", "Passt", "Nein, etwas anderes"),
    ),
    Tongue(
        "zh",
        ("伟", "芳", "静", "磊"),
        ("王", "李", "张"),
        ("你好", "您好,请问有人吗?"),
        ("这个还有货吗?", "我的订单1042什么时候到?", "可以换尺码吗?"),
        ("谢谢", "好的", "不是这个意思"),
    ),
    Tongue(
        "he",
        ("נועה", "איתי", "תמר"),
        ("כהן", "לוי"),
        ("שלום", "היי"),
        ("יש את זה בשחור?", "מתי מגיעה הזמנה 1042?"),
        ("תודה רבה", "מעולה"),
    ),
)
EMOJI = ("👍", "❤️", "😂", "😮", "🙏", "👩‍💻")
PLACES = (
    ("Riverside Market", "1 Example Street, Example City", 24.7135517, 46.6752957),
    ("Café Étoile", "12 rue de l'Exemple, Lyon", 45.764043, 4.835659),
    (None, None, -33.8688197, 151.2092955),
)
